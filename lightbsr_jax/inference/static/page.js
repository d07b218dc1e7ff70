// The page: settings, a queue of pictures, and the one that is looked at.
//
// What upscales is in engine.js, what compares in viewer.js.
import {about, upscale} from "./engine.js";
import {show} from "./viewer.js";
import {zip} from "./zip.js";

const at = id => document.getElementById(id);
const SETTINGS = ["weights", "size", "pixels", "format", "quality", "strength"];
const LOSSY = ["jpg", "webp", "avif", "jxl", "heic"];
const FORMATS = {png: "PNG", jpg: "JPEG", webp: "WebP", tif: "TIFF", bmp: "BMP",
  avif: "AVIF", jxl: "JPEG XL"};
const ENDED = ["done", "failed", "cancelled"];
const POLL = 1500;  // milliseconds between two looks at how far the engine is

// What the engine offers, once it has said so.
let offer = {weights: [], formats: [], suffixes: [], mostBytes: Infinity};
const items = [];  // {id, file, state, percent, wish, result, error, url, node, ...}
let chosen = null;
let working = null;
let number = 0;
let complaint = "";  // about the visitor's last wish
const UNKNOWN = at("size").options[0].text;  // of the size without the network's scale

const news = text => { at("news").textContent = text; };
// Screen readers read a status again whenever it is set.
function tell(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}
const capital = text => text.charAt(0).toUpperCase() + text.slice(1);
const sized = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB`
  : `${(bytes / 1e6).toFixed(1)} MB`;
const time = seconds => seconds < 90 ? `${Math.max(1, Math.round(seconds))} s`
  : `${Math.round(seconds / 60)} min`;

// ---- settings

function wish() {
  const size = at("size").value, pixels = at("pixels").value;
  const wanted = {weights: at("weights").value, format: at("format").value};
  if (size.startsWith("scale=")) wanted.scale = size.slice(6);
  if (size === "width") wanted.size = `${pixels}x`;
  if (size === "height") wanted.size = `x${pixels}`;
  if (at("strength").value !== "1") wanted.strength = at("strength").value;
  if (!at("quality-field").hidden) wanted.quality = at("quality").value;
  return wanted;
}

function settle() {
  at("pixels-field").hidden = !["width", "height"].includes(at("size").value);
  at("quality-field").hidden = !LOSSY.includes(at("format").value);
  at("strength-text").value = `${Math.round(100 * at("strength").value)} %`;
  nameSizes();
  try {
    const kept = Object.fromEntries(SETTINGS.map(id => [id, at(id).value]));
    localStorage.setItem("settings", JSON.stringify(kept));
  } catch { /* a browser that keeps nothing */ }
  draw();
}

// Which number of the settings cannot be, and what it may be; "" if all can.
function mistake() {
  const wrong = [at("pixels"), at("quality")].find(field =>
    !field.parentElement.hidden && !(field.value && field.checkValidity()));
  return wrong ? `${wrong.labels[0].textContent}: give a whole number from ` +
    `${wrong.min} to ${wrong.max}.` : "";
}

// Names the size that the chosen network makes, if its scale is known.
function nameSizes() {
  const {scale} = offer.weights.find(({name}) => name === at("weights").value) ?? {};
  const [own, ...others] = at("size").options;
  own.text = scale ? `${scale} × as large` : UNKNOWN;
  for (const other of others) other.hidden = other.value === `scale=${scale}`;
}

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem("settings") ?? "{}");
    for (const id of SETTINGS) {
      const known = at(id).tagName !== "SELECT"
        || [...at(id).options].some(option => option.value === kept[id]);
      if (kept[id] !== undefined && known) at(id).value = kept[id];
    }
  } catch { /* as above */ }
}

function option(select, value, text) {
  select.append(new Option(text, value));
}

function fill() {
  for (const {name, purpose} of offer.weights)
    option(at("weights"), name, purpose ? capital(purpose) : name);
  for (const end of offer.formats)
    option(at("format"), end, FORMATS[end] ?? end.toUpperCase());
  at("limits").textContent = `Up to ${offer.megapixels} megapixels each. ` +
    `${offer.formats.map(end => FORMATS[end] ?? end).join(", ")}; ${offer.keeps}.`;
  for (const id of ["file", "more"])
    at(id).accept = ["image/*", ...offer.suffixes].join(",");
  restore();
  settle();
  items.filter(({state}) => state === "waiting").forEach(admit);
  next();
}

// ---- the engine's state

async function watch() {
  const found = await about();
  const first = !offer.weights.length;
  if (found) offer = found;
  if (found && first) fill();
  const lost = found ? found.lost : "no answer";
  at("state").className = `state ${lost ? "lost" : found.ready ? "ready" : ""}`;
  tell("state-text", capital(lost ? lost : found.ready ? "ready" : found.said));
  const on = found?.on ? `, on ${found.on}` : "";
  const renewed = found?.renewed ? "; a new version is ready: close all tabs of this " +
    "page, then open it again" : "";
  tell("state-on", !lost && found.ready ? on + renewed : "");
  nameSizes();
  setTimeout(watch, found?.ready ? 20 * POLL : POLL);
}

// ---- the queue

function add(files) {
  for (const file of files) {
    const node = at("item").content.cloneNode(true).firstElementChild;
    const item = {id: ++number, file, node, state: "waiting", percent: 0,
      url: URL.createObjectURL(file)};
    admit(item);
    prepare(item);
    items.push(item);
    at("list").append(node);
    if (!chosen || ENDED.includes(chosen.state)) chosen = item;
  }
  if (files.length) news(`${files.length} added`);
  complaint = "";
  draw();
  next();
}

// Gives a picture the settings, which count once the engine has said what it offers.
function admit(item) {
  item.wish = wish();
  if (mistake()) Object.assign(item, {state: "failed", error: mistake()});
  if (item.file.size > offer.mostBytes)
    Object.assign(item, {state: "failed",
      error: `larger than the ${offer.mostBytes / 1e6} MB that are taken here`});
}

function prepare(item) {
  const {node} = item;
  const find = name => node.querySelector(name);
  find("b").textContent = find("b").title = item.file.name;
  find(".pick img").src = item.url;
  find(".pick img").onerror = event => { event.target.style.visibility = "hidden"; };
  find(".pick").onclick = () => { chosen = item; draw(); };
  find(".retry").onclick = () => again(item);
  find(".retry").ariaLabel = find(".retry").title = `Try ${item.file.name} again`;
  find(".stop").onclick = () => stop(item);
  find(".save").onclick = () => { item.saved = true; };
}

function stop(item) {
  if (item.state === "working") return item.leave.abort();
  if (item.state === "waiting") giveUp(item);
  else remove(item);
  draw();
}

// A picture that is cancelled keeps the result of an earlier attempt.
function giveUp(item) {
  item.state = item.result ? "done" : "cancelled";
}

function remove(item) {
  const place = items.indexOf(item);
  items.splice(place, 1);
  const focused = item.node.contains(document.activeElement);
  item.node.remove();
  for (const url of [item.url, ...Object.values(item.urls ?? {})])
    URL.revokeObjectURL(url);
  if (chosen === item) chosen = items[place] ?? items[place - 1] ?? null;
  if (focused) (chosen?.node.querySelector(".pick") ?? at("more")).focus();
}

function again(item) {
  Object.assign(item, {state: "waiting", percent: 0, error: null});
  admit(item);
  draw();
  next();
}

async function next() {
  if (working || !offer.weights.length) return;
  working = items.find(item => item.state === "waiting");
  if (!working) return draw();
  const item = working;
  item.state = "working";
  item.begun = performance.now();
  item.leave = new AbortController();
  draw();
  try {
    const onProgress = percent => { item.percent = percent; draw(); };
    const options = {signal: item.leave.signal, onProgress};
    finish(item, await upscale(item.file, item.wish, options));
  } catch (error) {
    const gone = item.leave.signal.aborted;
    if (gone) giveUp(item);
    else Object.assign(item, {state: "failed", error: error.message});
    news(`${item.file.name}: ${gone ? "cancelled" : error.message}`);
  }
  working = null;
  draw();
  next();
}

function finish(item, result) {
  for (const url of Object.values(item.urls ?? {})) URL.revokeObjectURL(url);
  const kinds = ["before", "after", "shown", "idr"].filter(kind => result[kind]);
  item.urls = Object.fromEntries(
    kinds.map(kind => [kind, URL.createObjectURL(result[kind])]));
  item.result = result;
  item.made = item.wish;
  item.saved = false;
  item.state = "done";
  item.node.querySelector(".pick img").src = item.urls.before;
  item.node.querySelector(".pick img").style.visibility = "";
  news(`${item.file.name} is ready, ${result.size.join(" by ")} pixels`);
}

// ---- drawing

function left(item) {
  const past = (performance.now() - item.begun) / 1000;
  if (item.percent < 5 || past < 2) return "";
  return `, ${time(past * (100 - item.percent) / item.percent)} left`;
}

function words(item) {
  if (item.state === "working") return item.percent ?
    `${item.percent} %${left(item)}` : offer.ready ? "reading" : "preparing";
  if (item.state === "failed") return "failed";
  if (item.state === "done")
    return `${item.result.size.join(" × ")}, ${sized(item.result.after.size)}`;
  return item.state;
}

function drawItem(item) {
  const {node, state} = item;
  const find = name => node.querySelector(name);
  node.className = `${state} ${item === chosen ? "chosen" : ""}`;
  find(".pick").ariaCurrent = String(item === chosen);
  find(".words span").textContent = words(item);
  find(".pick").title = item.error ?? "";
  find(".progress").hidden = state !== "working";
  find(".progress").classList.toggle("unknown", !item.percent);
  find(".progress i").style.width = item.percent ? `${item.percent}%` : "";
  const ended = state !== "working" && state !== "waiting";
  find(".retry").hidden = !["failed", "cancelled"].includes(state);
  find(".stop").ariaLabel = find(".stop").title =
    `${ended ? "Remove" : "Cancel"} ${item.file.name}`;
  find(".save").hidden = state !== "done";
  if (state === "done") {
    find(".save").href = item.urls.after;
    find(".save").download = item.result.name;
    find(".save").ariaLabel = find(".save").title = `Download ${item.result.name}`;
  }
}

let shown = "";  // what the viewer has, so that it is not loaded anew

function drawViewer() {
  at("welcome").hidden = Boolean(chosen);
  at("viewer").hidden = !chosen;
  if (!chosen) { shown = ""; return; }
  const {state, result, urls} = chosen;
  at("viewed").textContent = at("viewed").title = chosen.file.name;
  const key = `${chosen.id} ${urls?.after ?? ""} ${chosen.small ?? ""}`;
  if (key !== shown) {
    shown = key;
    if (result) show(urls.before, urls.shown, result.size);
    else preview(chosen);
  }
  at("before").hidden = !result && chosen.unseen;
  const waits = state === "working" || state === "waiting";
  at("cover").hidden = !waits;
  at("cover-bar").classList.toggle("unknown", !chosen.percent);
  at("cover-bar").firstElementChild.style.width =
    chosen.percent ? `${chosen.percent}%` : "";
  if (chosen.percent) at("cover-bar").ariaValueNow = chosen.percent;
  else at("cover-bar").removeAttribute("aria-valuenow");
  at("cover-text").textContent = state === "waiting" ? "Waiting for its turn"
    : chosen.percent ? `Upscaling: ${words(chosen)}`
    : offer.ready ? "Reading" : "The network is being prepared";
  at("wrong").hidden = state !== "failed" && state !== "cancelled";
  at("wrong-text").textContent = chosen.error ?? "Cancelled.";
  at("told").hidden = !result || waits;
  at("degradation").hidden = !result?.idr || waits;
  if (result) drawResult(result, urls);
}

function drawResult(result, urls) {
  const without = result.without?.length ? `, without ${result.without.join(", ")}` : "";
  at("sizes").textContent = `${result.from.join(" × ")} became ` +
    `${result.size.join(" × ")} pixels in ${time(result.seconds)}${without}.`;
  at("download").href = urls.after;
  at("download").download = result.name;
  at("download").title = result.name;
  at("again").hidden = JSON.stringify(wish()) === JSON.stringify(chosen.made);
  at("nearest").textContent = result.nearest?.length ?
    `Nearest known: ${result.nearest.join("; ")}. A distance of 1 is usual between ` +
    "photographs of one degradation." : "";
  if (urls.idr && at("idr").src !== urls.idr) at("idr").src = urls.idr;
}

// The picture itself, where the browser can show it, until there is a result.
function preview(item) {
  const image = new Image();
  show(item.url, null, [4, 3]);
  image.onload = () => {
    item.small = [image.naturalWidth, image.naturalHeight];
    if (item === chosen && !item.result) show(item.url, null, item.small);
  };
  image.onerror = () => { item.unseen = true; draw(); };
  image.src = item.url;
}

// What had the focus and is hidden now leaves it to the picture's entry in the list.
function draw() {
  items.forEach(drawItem);
  drawViewer();
  const done = items.filter(item => item.state === "done").length;
  const ahead = items.filter(({state}) => state === "waiting" || state === "working");
  at("count").textContent = items.length ? `${done} of ${items.length}` : "";
  at("empty").hidden = items.length > 0;
  at("all").hidden = items.length === 0;
  at("download-all").hidden = done < 2;
  at("cancel-all").hidden = ahead.length === 0;
  at("clear").hidden = items.length === ahead.length;
  at("hint").textContent = mistake() || complaint
    || (ahead.length ? "Changes count for pictures added from now on." : "");
  document.title = working ? `${working.percent} % · LightBSR`
    : "LightBSR: enlarge photographs";
  if (document.activeElement?.closest("[hidden]"))
    (chosen?.node.querySelector(".pick") ?? at("more")).focus({preventScroll: true});
}

// ---- what the visitor does

function complain(text) {
  complaint = text;
  news(text);
  draw();
}

function save(url, name) {
  const link = Object.assign(document.createElement("a"), {href: url, download: name});
  link.click();
}

async function saveAll() {
  const ready = items.filter(item => item.state === "done");
  const files = ready.map(({result}) => ({name: result.name, blob: result.after}));
  try {
    const url = URL.createObjectURL(await zip(files));
    save(url, "lightbsr.zip");
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    for (const item of ready) item.saved = true;
    news(`${files.length} pictures in lightbsr.zip`);
    complaint = "";
    draw();
  } catch (error) {
    complain(error.message);
  }
}

async function example() {
  const answer = await fetch("example.png").catch(() => null);
  if (!answer?.ok) return complain("The example cannot be loaded: try again.");
  add([new File([await answer.blob()], "example.png", {type: "image/png"})]);
}

// Files of a drop: [readable, names of others]; those in dropped folders too.
async function dropped(transfer) {
  const entries = [...transfer.items].map(one => one.webkitGetAsEntry?.());
  if (!entries.some(entry => entry?.isDirectory)) return [[...transfer.files], []];
  const found = [], missed = [];
  const open = async entry => {
    if (entry.isFile) found.push(await new Promise((y, n) => entry.file(y, n)));
    if (!entry.isDirectory) return;
    const reader = entry.createReader();
    for (let some; (some = await new Promise((y, n) => reader.readEntries(y, n))).length;)
      for (const one of some) await visit(one);
  };
  const visit = entry => open(entry).catch(() => missed.push(entry.name));
  for (const entry of entries) if (entry) await visit(entry);
  const isPicture = ({type, name}) => type.startsWith("image/")
    || offer.suffixes.some(end => name.toLowerCase().endsWith(end));
  return [found.filter(isPicture), missed];
}

for (const id of ["file", "more"])
  at(id).onchange = () => { add([...at(id).files]); at(id).value = ""; };
at("example").onclick = example;
for (const id of SETTINGS) at(id).oninput = settle;
at("settings").onsubmit = event => event.preventDefault();
for (const id of ["again", "again-wrong"]) at(id).onclick = () => again(chosen);
at("cover-cancel").onclick = () => stop(chosen);
at("download").onclick = () => { chosen.saved = true; };
at("download-all").onclick = saveAll;
at("cancel-all").onclick = () => items.forEach(item => {
  if (item.state === "waiting" || item.state === "working") stop(item);
});
at("clear").onclick = () => {
  items.filter(({state}) => state !== "waiting" && state !== "working").forEach(remove);
  draw();
};

const carries = event => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", event => {
  if (!carries(event)) return;
  event.preventDefault();
  at("over").hidden = false;
});
document.addEventListener("dragleave", event => {
  if (!event.relatedTarget) at("over").hidden = true;
});
document.addEventListener("drop", async event => {
  at("over").hidden = true;
  if (!carries(event)) return;
  event.preventDefault();
  const [files, missed] = await dropped(event.dataTransfer);
  add(files);
  if (missed.length) complain(`Your browser cannot read ${missed.join(", ")}.`);
  else if (!files.length) complain("There are no pictures in the folder.");
});
document.addEventListener("paste", event => {
  const files = [...event.clipboardData?.files ?? []];
  if (files.length) { event.preventDefault(); add(files); }
});
// Pictures at work, and results that nobody has saved, would be lost.
window.addEventListener("beforeunload", event => {
  if (working || items.some(({result, saved}) => result && !saved))
    event.preventDefault();
});

watch();
