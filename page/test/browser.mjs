// Upscales files in Chromium: node browser.mjs CHROMIUM DIST OUT FILE [FILE ...].
// Results are saved to OUT. Prints a JSON text: states and texts by name, whether threads
// were allowed, addresses that were asked for, and whether the page opens offline.
import {mkdtempSync} from "node:fs";
import {tmpdir} from "node:os";
import {basename, join} from "node:path";
import {chromium} from "playwright-core";
import {serve} from "./serve.mjs";

const [executablePath, dist, out, ...files] = process.argv.slice(2);
const {SETTINGS = "{}", ARGS = "", WIDTH = "1280", SHOT = ""} = process.env;
const server = await serve(dist);
const browser = await chromium.launchPersistentContext(
  mkdtempSync(join(tmpdir(), "page-")), {executablePath, acceptDownloads: true,
    viewport: {width: Number(WIDTH), height: 800},
    args: ["--no-sandbox", ...ARGS.split(" ").filter(Boolean)]});
const page = await browser.newPage();
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
  server.close();
  await page.click("#clear");
  await page.reload();
  found.offline = await ready();
} finally {
  console.log(JSON.stringify(found, null, 1));
  await browser.close();
  server.close();
}
