// Upscales files in Chromium: node browser.mjs CHROMIUM DIST OUT FILE [FILE ...].
// Results are saved to OUT. Prints a JSON text: states and texts by name, whether threads
// were allowed, addresses that were asked for, and whether the page opens offline, also
// after a new version of it.
import {mkdtempSync, readFileSync, writeFileSync} from "node:fs";
import {tmpdir} from "node:os";
import {basename, join} from "node:path";
import {chromium} from "playwright-core";
import {serve} from "./serve.mjs";

const [executablePath, dist, out, ...files] = process.argv.slice(2);
const {SETTINGS = "{}", ARGS = "", WIDTH = "1280", SHOT = ""} = process.env;
let server = await serve(dist);
const browser = await chromium.launchPersistentContext(
  mkdtempSync(join(tmpdir(), "page-")), {executablePath, acceptDownloads: true,
    viewport: {width: Number(WIDTH), height: 800},
    args: ["--no-sandbox", ...ARGS.split(" ").filter(Boolean)]});
let page = await browser.newPage();
const foreign = [], told = [];
browser.on("request", request => {
  const {protocol, origin} = new URL(request.url());
  if (protocol.startsWith("http") && `${origin}/` !== server.address)
    foreign.push(request.url());
});
page.on("console", message => told.push(`${message.type()}: ${message.text()}`));
page.on("pageerror", error => told.push(error.message));

const ready = async () => {
  await page.waitForFunction(() =>
    document.querySelector(".state.ready, .state.lost"), null, {timeout: 120000});
  return page.innerText("#state");
};

// What the page says when a second attempt at the first picture is cancelled, when an
// empty folder is dropped, and when a number of the settings cannot be.
async function trials() {
  const wait = () => new Promise(done => setTimeout(done, 100));
  const at = id => document.getElementById(id);
  const set = (id, value) => {
    at(id).value = value;
    at(id).dispatchEvent(new Event("input"));
  };
  set("strength", "0.5");
  document.querySelector("#list .pick").click();
  at("again").click();
  at("cancel-all").click();
  while (document.querySelector("li.working")) await wait();
  const kept = [document.querySelector("#list li").classList[0], at("again").hidden];
  const folder = {isDirectory: true,
    createReader: () => ({readEntries: found => found([])})};
  const drop = new Event("drop");
  drop.dataTransfer = {types: ["Files"], items: [{webkitGetAsEntry: () => folder}]};
  document.dispatchEvent(drop);
  await wait();
  const empty = at("hint").textContent;
  set("size", "width");
  set("pixels", "");
  at("again").click();
  return {kept, empty, hint: at("hint").textContent,
    refused: at("wrong-text").textContent};
}

const found = {pictures: {}, foreign, told};
try {
  await page.goto(server.address);
  found.state = await ready();
  found.isolated = await page.evaluate(() => crossOriginIsolated);
  for (const [id, value] of Object.entries(JSON.parse(SETTINGS)))
    await page.$eval(`#${id}`, (node, value) => {
      node.value = value;
      node.dispatchEvent(new Event("input"));
    }, value);
  await page.setInputFiles("#file", files);
  await page.waitForFunction(count =>
    document.querySelectorAll("li.done, li.failed").length === count, files.length,
    {timeout: 3600000});
  const asks = () => page.evaluate(() =>
    !dispatchEvent(new Event("beforeunload", {cancelable: true})));
  found.asks = [await asks()];  // before the page is left
  for (const [index, file] of files.entries()) {
    const item = page.locator("#list li").nth(index);
    await item.locator(".pick").click();
    const state = await item.evaluate(node => node.classList[0]);
    const text = await page.textContent(state === "done" ? "#sizes" : "#wrong-text");
    found.pictures[basename(file)] = {state, text};
    if (SHOT) await page.screenshot({path: `${SHOT}-${index}.png`, fullPage: true});
    if (state !== "done") continue;
    const [download] = await Promise.all(
      [page.waitForEvent("download"), page.click("#download")]);
    const name = download.suggestedFilename();
    found.pictures[basename(file)].name = name;
    await download.saveAs(join(out, name));
  }
  found.asks.push(await asks());
  Object.assign(found, await page.evaluate(trials));
  server.close();
  await page.click("#clear");
  await page.reload();
  found.offline = await ready();
  server = await serve(dist, new URL(server.address).port);
  const script = join(dist, "sw.js");
  const old = readFileSync(script, "utf8");
  writeFileSync(script, old.replace(/lightbsr-\w{12}/, "$&-new"));
  await page.reload();
  await page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    while (!registration.waiting) await new Promise(done => setTimeout(done, 100));
  });
  const blank = await browser.newPage();
  await page.close();
  await blank.waitForTimeout(1000);
  server.close();
  page = blank;
  await page.goto(server.address);
  found.renewed = [await ready(), ...await page.evaluate(() => caches.keys())];
} finally {
  console.log(JSON.stringify(found, null, 1));
  await browser.close();
  server.close();
}
