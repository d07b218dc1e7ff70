// The worker of the page: loads the network and upscales one picture at a time.
import {difference, TOLERANCE, trial} from "./check.js";
import {Unusable} from "./headers.js";
import {Maps, NoSpace, privateFiles} from "./maps.js";
import {Cancelled, Network} from "./network.js";
import {encoded, FORMATS, holdsExif, read} from "./picture.js";
import {gunzipped} from "./png.js";
import {resultName, upscaled} from "./upscale.js";

const {models, runtimes} = FILES;  // sizes in bytes by file; see build.mjs
const GIGABYTE = 2 ** 30;
const MAPS = 0.15;  // share of the memory for maps; larger ones are files
const MOST_THREADS = 16;
const BEAT = 10;  // seconds between two signs of life
const TILE = 192;  // LR pixels along a side

const networks = new Map();
let runtime = null, openFile = null;
const cancelled = new Set();

// Lets messages in between two tiles.
const {port1, port2} = new MessageChannel();
const yielding = () => new Promise(resolve => {
  port1.onmessage = resolve;
  port2.postMessage(null);
});

function say(said, ready = false) { postMessage({said, ready}); }

// The bytes of a compressed file of the page. Raises Unusable.
async function load(name, size, what) {
  const parts = [];
  try {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(answer.status);
    const reader = answer.body.getReader();
    let done = 0;
    for (let part; !(part = await reader.read()).done;) {
      parts.push(part.value);
      done += part.value.length;
      say(`loading ${what}: ${Math.min(100, Math.round(100 * done / size))} %`);
    }
  } catch (error) {
    throw new Unusable(`${name} cannot be loaded (${error.message}): try again online, ` +
      "or close all tabs of this page, then open it again");
  }
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  // Some servers unpack what they send.
  return bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipped(bytes) : bytes;
}

async function hasGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

async function start(kind) {
  const {default: ort, ...named} = kind === "webgpu"
    ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const used = ort ?? named;
  const {glue, binary, size} = runtimes[kind];
  const program = await load(binary, size, "the program");
  used.env.wasm.wasmPaths = {mjs: new URL(glue, location.href).href};
  used.env.wasm.wasmBinary = program.buffer;
  used.env.wasm.numThreads = kind === "webgpu" ? 1
    : crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  used.env.logLevel = "error";
  return {kind, ort: used, options: {executionProviders: [kind]}};
}

async function network(name) {
  if (!networks.has(name)) {
    const {file, size, expected} = models[name];
    const bytes = await load(file, size, "the network");
    const {ort, options} = runtime;
    const made = new Network(ort, bytes.buffer, {options, tile: TILE, yielding});
    say("preparing the network");
    await made.prepare();
    if (runtime.kind === "webgpu") {
      const apart = difference(await trial(made), expected);
      if (!(apart <= TOLERANCE))
        throw new Error(`the graphics card errs by ${apart}`);
    }
    networks.set(name, made);
    sayReady();
  }
  return networks.get(name);
}

async function prepare(name) {
  openFile = await privateFiles();
  const kind = await hasGpu() ? "webgpu" : "wasm";
  try {
    runtime = await start(kind);
    await network(name);
  } catch (error) {
    if (kind === "wasm") throw error;
    console.info(`without the graphics card: ${error?.message ?? error}`);
    return withoutGpu(name);
  }
}

function sayReady() { postMessage({said: "ready", ready: true, engine: engine()}); }

function engine() {
  if (runtime.kind === "webgpu") return "graphics card";
  const {numThreads} = runtime.ort.env.wasm;
  return numThreads === 1 ? "one processor core" : `${numThreads} processor cores`;
}

async function withoutGpu(name) {
  networks.clear();
  runtime = await start("wasm");
  await network(name);
}

function budget() { return MAPS * (navigator.deviceMemory ?? 4) * GIGABYTE; }

async function one({id, file, wish}) {
  const begin = performance.now();
  const {megapixels} = FILES;
  const picture = await read(file, megapixels);
  let percent = 0;
  const onProgress = (done, total) => {
    const now = Math.floor(100 * done / total);
    if (now > percent) postMessage({id, percent: percent = now});
  };
  const options = {maps: new Maps(budget(), openFile), megapixels, onProgress,
    isCancelled: () => cancelled.has(id)};
  let made, result;
  try {
    made = await network(wish.weights);
    result = await upscaled(made, picture, wish, options);
  } catch (error) {
    const known = [Cancelled, Unusable, NoSpace].some(kind => error instanceof kind);
    if (known || runtime.kind !== "webgpu") throw error;
    await withoutGpu(wish.weights);  // the graphics card failed
    return one({id, file, wish});
  }
  const format = wish.format || (FORMATS.includes(picture.kind) ? picture.kind : "png");
  const after = await encoded(result, format, Number(wish.quality || 95));
  const {width, height} = picture;
  const before = await encoded({...picture, channels: 3, exif: null}, "png");
  const seconds = (performance.now() - begin) / 1000;
  return {before, after, shown: after, from: [width, height],
    size: [result.width, result.height], seconds: Number(seconds.toFixed(1)),
    without: leftOut(picture, result, format), nearest: [], idr: null,
    name: resultName(file.name, wish, [result.height, result.width], made.scale,
      format)};
}

// What the result lacks, by name.
function leftOut(picture, result, format) {
  const lost = [];
  if (picture.alpha && format === "jpg") lost.push("transparency");
  const kept = result.exif && holdsExif(format, result.exif);
  if (picture.hadExif && !kept) lost.push("EXIF");
  if (picture.hadProfile && !result.profile) lost.push("the colour profile");
  return lost;
}

// An error in words for the visitor.
function words(error) {
  if (error instanceof Unusable || error instanceof NoSpace) return error.message;
  const said = error?.message ?? String(error);
  // The runtime throws some errors as plain numbers.
  if (/memory|alloc|OrtRun|abort/i.test(said) || error instanceof RangeError
      || typeof error === "number")
    return "there is not enough memory for this picture in this browser " +
      `(${said}): close other tabs, or use lightbsr upscale`;
  return `a bug: ${said}`;
}

onmessage = async ({data}) => {
  if (data.cancel) return cancelled.add(data.cancel);
  if (data.prepare) {
    return prepare(data.prepare).catch(error =>
      postMessage({lost: error instanceof Unusable ? error.message :
        `the network cannot be loaded (${error?.message ?? error}): reload the page`}));
  }
  const {id} = data;
  const beat = setInterval(() => postMessage({id}), 1000 * BEAT);
  try {
    postMessage({id, result: await one(data)});
  } catch (error) {
    const meant = error instanceof Cancelled || error instanceof Unusable;
    if (!meant) console.error(error);
    postMessage({id, error: error instanceof Cancelled ? "cancelled" : words(error)});
  } finally {
    clearInterval(beat);
    if (runtime) sayReady();  // also where the loading of other weights has failed
  }
};
