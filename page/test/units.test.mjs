// Units without a network and without a browser: node --test.
import assert from "node:assert/strict";
import {test} from "node:test";
import {inflateSync} from "node:zlib";
import {difference} from "../src/check.js";
import {inspect, updated} from "../src/headers.js";
import {FileMap, Maps, MemoryMap, NoSpace} from "../src/maps.js";
import {ranges} from "../src/network.js";
import {encoded, holdsExif, read} from "../src/picture.js";
import {encode, inflated} from "../src/png.js";
import {fill, mirrored} from "../src/resample.js";
import {resultName, target} from "../src/upscale.js";
import {distinct} from "../../lightbsr_jax/inference/static/zip.js";

const bytes = (...parts) => new Uint8Array(parts.flatMap(part =>
  typeof part === "string" ? [...part].map(c => c.charCodeAt(0)) : part));

test("a tile's ranges cover a side without gaps", () => {
  for (const [size, largest] of [[17, 32], [256, 64], [301, 192], [33, 32]]) {
    const found = ranges(size, largest);
    assert.equal(found[0][0], 0);
    assert.equal(found.at(-1)[1], size);
    for (const [n, [from, to]] of found.entries()) {
      assert.ok(to > from && to - from <= largest && from % 4 === 0);
      if (n) assert.equal(from, found[n - 1][1]);
    }
  }
});

test("maps in memory and in files hold the same", async () => {
  const stored = new Uint8Array(4 * 5 * 7 * 2);
  const handle = {
    truncate() {},
    read: (part, {at}) => new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
      .set(stored.subarray(at, at + part.byteLength)),
    write(part, {at}) {
      stored.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
      return part.byteLength;
    },
  };
  const values = Float32Array.from({length: 3 * 4 * 2}, (_, n) => n + 0.5);
  const place = {top: 1, bottom: 4, left: 2, right: 6};
  for (const map of [new MemoryMap(5, 7, 2), new FileMap(5, 7, 2, {handle})]) {
    map.write(place, values);
    assert.deepEqual(map.read(place), values);
    const row = map.read({top: 2, bottom: 3, left: 1, right: 4});
    assert.deepEqual([...row], [0, 0, 8.5, 9.5, 10.5, 11.5]);
  }
});

test("maps beyond the budget are files, and a full disk is named", async () => {
  let opened = 0;
  const handle = {truncate() {}, write: () => 0};
  const maps = new Maps(100, async () => ({handle, close() {}, n: ++opened}));
  const first = await maps.make(4, 6, 1);
  assert.ok(first instanceof MemoryMap);
  const second = await maps.make(1, 1, 2);
  assert.ok(second instanceof FileMap && opened === 1);
  assert.throws(() => second.write({top: 0, bottom: 1, left: 0, right: 1},
    new Float32Array(2)), NoSpace);
  first.free();
  assert.ok(await maps.make(1, 1, 2) instanceof MemoryMap);
});

test("a file without space is closed, and a full disk is named, too", async () => {
  const full = Object.assign(new Error("full"), {name: "QuotaExceededError"});
  let closed = 0;
  const refuse = () => { throw full; };
  const file = {handle: {truncate: refuse}, close: () => ++closed};
  await assert.rejects(new Maps(0, async () => file).make(1, 1, 1), NoSpace);
  assert.equal(closed, 1);
  const map = new FileMap(1, 1, 1, {handle: {truncate() {}, write: refuse}});
  assert.throws(() => map.write({top: 0, bottom: 1, left: 0, right: 1},
    new Float32Array(1)), NoSpace);
});

test("a profile that cannot be unpacked is one error", async () => {
  await assert.rejects(inflated(new Uint8Array([1, 2, 3])));
  await new Promise(done => setTimeout(done, 20));  // no other one follows
});

test("a PNG holds its rows, profile and EXIF", async () => {
  const [width, height] = [9, 70];
  const pixels = Uint8Array.from({length: 3 * width * height},
    (_, n) => (n * n) % 251);
  const exif = bytes("II*\0", [8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  const profile = Uint8Array.from({length: 300}, (_, n) => n & 255);
  const blob = await encode(pixels, {width, height, channels: 3, profile, exif});
  const file = new Uint8Array(await blob.arrayBuffer());
  const head = inspect(file);
  assert.deepEqual([head.width, head.height], [width, height]);
  assert.deepEqual(new Uint8Array(inflateSync(head.profile.packed)), profile);
  assert.deepEqual(head.exif, exif);
  assert.deepEqual(unfiltered(file, width, height), pixels);
});

// The pixels of a PNG of 3 channels, by the text of its specification.
function unfiltered(file, width, height) {
  const view = new DataView(file.buffer), parts = [];
  for (let at = 8; at < file.length; at += view.getUint32(at) + 12)
    if (String.fromCharCode(...file.subarray(at + 4, at + 8)) === "IDAT")
      parts.push(file.subarray(at + 8, at + 8 + view.getUint32(at)));
  const raw = inflateSync(Buffer.concat(parts)), size = 3 * width;
  const out = new Uint8Array(size * height);
  const at = (y, i) => y < 0 || i < 0 ? 0 : out[y * size + i];
  for (let y = 0; y < height; y++)
    for (let i = 0; i < size; i++) {
      const [a, b, c] = [at(y, i - 3), at(y - 1, i), i < 3 ? 0 : at(y - 1, i - 3)];
      const p = a + b - c;
      const paeth = [a, b, c].reduce((best, n) =>
        Math.abs(p - n) < Math.abs(p - best) ? n : best);
      const guess = [0, a, b, (a + b) >> 1, paeth][raw[y * (size + 1)]];
      out[y * size + i] = raw[y * (size + 1) + 1 + i] + guess;
    }
  return out;
}

const PNG = "\x89PNG\r\n\x1a\n";
const chunk = (name, body) => bytes([0, 0, 0, body.length], name, body, [0, 0, 0, 0]);
const ihdr = bits => chunk("IHDR", [0, 0, 0, 5, 0, 0, 0, 6, bits, 2, 0, 0, 0]);
const jpeg = (components, bits = 8) => bytes([0xff, 0xd8, 0xff, 0xc0, 0, 8, bits, 0, 6,
  0, 5, components, 0xff, 0xda, 0, 2, 1, 2, 3]);

test("what cannot be upscaled is refused by name", () => {
  const end = [...chunk("IEND", [])];
  const refused = [
    [bytes(PNG, [...ihdr(16)], end), /16 bits/],
    [bytes(PNG, [...ihdr(8)], [...chunk("acTL", [])], end), /animation/],
    [bytes(PNG, [...ihdr(8)], [...chunk("cICP", [9, 16, 0, 1])], end), /dynamic range/],
    [bytes(PNG, [...ihdr(8)]), /ends too early/],
    [bytes([...jpeg(4)], [0xff, 0xd9]), /CMYK/],
    [bytes([...jpeg(3, 12)], [0xff, 0xd9]), /12 bits/],
    [jpeg(3), /ends too early/],
    [bytes("II*\0", [0, 0]), /TIFF/],
    [new Uint8Array(), /empty/],
  ];
  for (const [file, message] of refused) assert.throws(() => inspect(file), message);
  const found = inspect(bytes([...jpeg(3)], [0xff, 0xd9]));
  assert.deepEqual([found.kind, found.width, found.height], ["jpg", 5, 6]);
  assert.deepEqual([found.grey, inspect(bytes([...jpeg(1)], [0xff, 0xd9])).grey],
    [false, true]);
  assert.equal(inspect(bytes(PNG, [...ihdr(8)], end)).kind, "png");
  assert.equal(inspect(bytes("something else")).kind, null);
});

test("EXIF loses its orientation and gets the new size", () => {
  const entry = (tag, kind, value) => [tag & 255, tag >> 8, kind, 0, 1, 0, 0, 0,
    value & 255, value >> 8, 0, 0];
  const exif = bytes("II*\0", [8, 0, 0, 0, 2, 0], entry(0x0112, 3, 6),
    entry(0x8769, 4, 38), [99, 0, 0, 0], [1, 0], entry(0xa002, 4, 5), [0, 0, 0, 0]);
  const expected = bytes("II*\0", [8, 0, 0, 0, 2, 0], entry(0x0112, 3, 1),
    entry(0x8769, 4, 38), [0, 0, 0, 0], [1, 0], entry(0xa002, 4, 20), [0, 0, 0, 0]);
  assert.deepEqual(updated(exif, 20, 24), expected);
  assert.equal(updated(bytes("II*\0", [200, 0, 0, 0]), 20, 24), null);
  // Sizes of the main directory, and one beyond 16 bits.
  const sizes = bytes("II*\0", [8, 0, 0, 0, 2, 0], entry(0x0100, 3, 5),
    entry(0x0101, 4, 6), [0, 0, 0, 0]);
  const grown = bytes("II*\0", [8, 0, 0, 0, 2, 0], entry(0x0100, 4, 0x1170),
    entry(0x0101, 4, 24), [0, 0, 0, 0]);
  grown[20] = 1;
  assert.deepEqual(updated(sizes, 0x11170, 24), grown);
});

test("EXIF keeps an orientation that the browser has not followed", () => {
  const exif = number => bytes("II*\0", [8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0,
    number, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(updated(exif(6), 20, 24, true), exif(6));
  assert.deepEqual(updated(exif(6), 20, 24, false), exif(1));
  assert.deepEqual(updated(exif(3), 20, 24, true), exif(1));  // the sizes do not tell
});

test("colours whose profile is not read become those of sRGB", async () => {
  const asked = [];
  globalThis.createImageBitmap = async (file, options) => {
    asked.push(options.colorSpaceConversion);
    throw new Error("damaged");
  };
  const avif = bytes([0, 0, 0, 12], "ftypavif", [0, 0, 0, 20], "infe", [2, 0, 0, 0],
    "\0\0\0\0Exif");
  const whole = bytes(PNG, [...ihdr(8)], [...chunk("IEND", [])]);
  for (const file of [avif, whole, bytes("\xff\x0a, a JPEG XL")])
    await assert.rejects(read(new Blob([file]), 16), /the file is/);
  assert.deepEqual(asked, ["default", "none", "default"]);
  assert.deepEqual([avif, avif.slice(0, 12), whole].map(file => inspect(file).hadExif),
    [true, false, false]);
});

test("chunks of a PNG tell whether its colours are those of sRGB", () => {
  const gamma = value => chunk("gAMA", [0, value >> 16, (value >> 8) & 255, value & 255]);
  const wide = chunk("cICP", [12, 13, 0, 1]), end = chunk("IEND", []);
  const profile = chunk("iCCP", [105, 0, 0, 1, 2]), own = chunk("sRGB", [0]);
  const red = x => chunk("cHRM", [...Array(10).fill(0), x >> 8, x & 255,
    ...Array(20).fill(0)]);
  const cases = [[[], false], [[gamma(45455), red(64000)], false],
    [[gamma(100000)], true], [[red(60000)], true], [[gamma(100000), own], false],
    [[profile, gamma(100000)], false], [[wide, profile, own], true],
    [[chunk("cICP", [1, 13, 0, 1])], false]];
  for (const [chunks, hidden] of cases) {
    const file = bytes(PNG, [...ihdr(8)], ...chunks.map(one => [...one]), [...end]);
    assert.equal(inspect(file).hidden, hidden);
  }
});

test("a JPEG keeps EXIF as long as its segments", async () => {
  globalThis.OffscreenCanvas = class {
    getContext() { return {putImageData() {}}; }
    async convertToBlob() { return new Blob([jpeg(3), bytes([0xff, 0xd9])]); }
  };
  globalThis.ImageData = class {
    constructor(width, height) { this.data = new Uint8ClampedArray(4 * width * height); }
  };
  const image = {colour: new Uint8Array(3), channels: 3, width: 1, height: 1};
  const kept = async length => {
    const file = await encoded({...image, exif: new Uint8Array(length)}, "jpg");
    return inspect(new Uint8Array(await file.arrayBuffer())).exif?.length;
  };
  assert.deepEqual([await kept(65527), await kept(65528)], [65527, undefined]);
  assert.deepEqual(["jpg", "png"].map(format => holdsExif(format, {length: 65528})),
    [false, true]);
});

test("a JPEG states no other profile than the picture's", async () => {
  const own = Uint8Array.from({length: 140}, (_, n) => n);
  const segment = (kind, body) =>
    [0xff, kind, 0, body.length + 2, ...[...body].map(c => c.charCodeAt(0))];
  globalThis.OffscreenCanvas = class {
    getContext() { return {putImageData() {}}; }
    async convertToBlob() {  // as Chromium makes it, with a profile of sRGB
      return new Blob([bytes([0xff, 0xd8], segment(0xe0, "JFIF\0abcdefghi"),
        segment(0xe2, "ICC_PROFILE\0\x01\x01of sRGB"), [...jpeg(3).slice(2)],
        [0xff, 0xd9])]);
    }
  };
  const image = {colour: new Uint8Array(3), channels: 3, width: 1, height: 1};
  for (const profile of [own, null]) {
    const file = await encoded({...image, profile}, "jpg");
    const content = new Uint8Array(await file.arrayBuffer());
    assert.deepEqual(inspect(content).profile, profile);
    const said = new TextDecoder("latin1").decode(content);
    assert.equal(said.split("ICC_PROFILE").length, profile ? 2 : 1);
    assert.ok(said.includes("JFIF") && said.endsWith("\xff\xd9"));
  }
});

test("hidden pixels get the colour of the nearest visible one", () => {
  const [height, width] = [9, 11];
  const alpha = Uint8Array.from({length: height * width},
    (_, n) => [3, 40, 61].includes(n) ? 200 : 0);
  const pixels = Uint8Array.from({length: 3 * alpha.length}, (_, n) => n % 256);
  const old = pixels.slice();
  fill(pixels, alpha, height, width);
  const far = (a, b) => (Math.trunc(a / width) - Math.trunc(b / width)) ** 2
    + (a % width - b % width) ** 2;
  for (let n = 0; n < alpha.length; n++) {
    const least = Math.min(...[3, 40, 61].map(other => far(n, other)));
    const from = [3, 40, 61].filter(other => far(n, other) === least);
    assert.ok(from.some(other => pixels[3 * n] === old[3 * other]), `pixel ${n}`);
  }
});

test("a picture is mirrored, also where it is smaller than the border", () => {
  const pixels = Uint8Array.from({length: 2 * 3}, (_, n) => n + 1);
  const row = [...mirrored(pixels, 1, 2, 3)].slice(0, 8 * 3);
  assert.deepEqual(row.filter((_, n) => n % 3 === 0), [4, 4, 1, 1, 4, 4, 1, 1]);
});

test("a trial without a value differs by no number", () => {
  assert.equal(difference(new Float32Array([1, 2.5]), [1, 2]), 0.5);
  assert.ok(Number.isNaN(difference(new Float32Array([1, NaN]), [1, 2])));
  assert.ok(Number.isNaN(difference(new Float32Array([1]), [1, 2])));
});

test("sizes and names are those of the settings", () => {
  const picture = {height: 30, width: 40};
  assert.deepEqual(target({}, picture, 4), [120, 160]);
  assert.deepEqual(target({scale: "3"}, picture, 4), [90, 120]);
  assert.deepEqual(target({size: "100x"}, picture, 4), [75, 100]);
  assert.deepEqual(target({size: "x60"}, picture, 4), [60, 80]);
  assert.equal(resultName("a.b.jpg", {}, [120, 160], 4, "png"), "a.b-x4.png");
  assert.equal(resultName("a", {size: "100x"}, [75, 100], 4, "jpg"), "a-100x75.jpg");
});

test("names in a .zip differ on every disk", () => {
  assert.deepEqual(distinct(["a.png", "A.png", "a.png", "a-2.png"]),
    ["a.png", "A-2.png", "a-3.png", "a-2-2.png"]);
});

// An engine of its own, with workers that record what they get.
async function engine(others = {}) {
  const workers = [];
  globalThis.FILES = {weights: [{name: "first", scale: 4}], megapixels: 16, models: {},
    runtimes: {}};
  globalThis.Worker = class {
    constructor() { this.got = []; workers.push(this); }
    postMessage(data) { this.got.push(data); }
    terminate() {}
  };
  Object.defineProperty(globalThis, "navigator",
    {value: {}, configurable: true, writable: true});
  Object.assign(globalThis, others);
  const made = await import(`../src/engine.js?${engine.count = (engine.count ?? 0) + 1}`);
  return {...made, workers};
}

const soon = () => new Promise(done => setTimeout(done, 5));

test("a picture is sent when the worker is ready", async () => {
  const {upscale, workers} = await engine();
  const leave = new AbortController();
  const answer = upscale("file", {}, {signal: leave.signal, onProgress() {}});
  await soon();
  const [worker] = workers;
  assert.deepEqual(worker.got, [{prepare: "first"}]);
  worker.onmessage({data: {said: "loading", ready: false}});
  assert.equal(worker.got.length, 1);
  worker.onmessage({data: {said: "ready", ready: true}});
  worker.onmessage({data: {said: "ready", ready: true}});
  assert.deepEqual(worker.got.slice(1), [{id: 1, file: "file", wish: {}}]);
  leave.abort();
  assert.deepEqual(worker.got.slice(2), [{cancel: 1}]);
  worker.onmessage({data: {id: 1, error: "cancelled"}});
  await assert.rejects(answer, /cancelled/);
});

test("a picture is cancelled before the worker is ready", async () => {
  const {upscale, workers} = await engine();
  const leave = new AbortController();
  const answer = upscale("file", {}, {signal: leave.signal, onProgress() {}});
  leave.abort();
  await assert.rejects(answer, /cancelled/);
  await soon();
  workers[0].onmessage({data: {said: "ready", ready: true}});
  assert.equal(workers[0].got.length, 1);
});

test("a page offers at once, and with a picture is not loaded anew", async () => {
  for (const early of [false, true]) {
    let loaded = 0, registered;
    const isolating = {isSecureContext: true, crossOriginIsolated: false,
      location: {reload() { loaded++; }},
      sessionStorage: {getItem: () => null, setItem() {}},
      navigator: {serviceWorker: {controller: {},
        register: () => new Promise(done => { registered = done; })}}};
    const {about, upscale, workers} = await engine(isolating);
    assert.equal((await about()).weights[0].name, "first");
    const options = {signal: new AbortController().signal, onProgress() {}};
    const answer = early && upscale("file", {}, options);
    registered();
    await soon();
    assert.equal(loaded, early ? 0 : 1);
    if (!early) continue;
    workers[0].onmessage({data: {lost: "nothing there"}});
    await assert.rejects(answer, /nothing there/);
  }
});

test("a new version that waits is named", async () => {
  const registration = {active: {}, waiting: null};
  const workers = {controller: {}, register: async () => registration};
  const {about} = await engine({isSecureContext: true, crossOriginIsolated: true,
    navigator: {serviceWorker: workers}});
  assert.equal((await about()).renewed, false);
  await soon();
  registration.waiting = {};
  assert.equal((await about()).renewed, true);
  registration.active = null;  // the first version, about to begin
  assert.equal((await about()).renewed, false);
});

test("a new version keeps the large files that the one before has kept", async () => {
  const stores = {"lightbsr-one": {"a.gz": "old"}};
  const server = {"page.js": "script", "a.gz": "new", "b.gz": "other"};
  Object.assign(globalThis, {VERSION: "two", SHELL: ["page.js"], LARGE: ["a.gz", "b.gz"],
    oninstall: null, onactivate: null, onfetch: null,
    Request: class { constructor(url) { this.url = url; } },
    caches: {
      async open(name) {
        const store = stores[name] ??= {};
        const add = async ({url}) => { store[url] = server[url]; };
        return {add, addAll: async all => { for (const one of all) await add(one); }};
      },
      async match(url) { return Object.values(stores).find(store => url in store); },
    }});
  await import("../src/sw.js");
  await new Promise(done => globalThis.oninstall({waitUntil: done}));
  assert.deepEqual(stores["lightbsr-two"], {"page.js": "script", "a.gz": "new"});
});

test("an error that is a number is named", async () => {
  const told = [];
  globalThis.FILES = {megapixels: 16, models: {}, runtimes: {}};
  Object.assign(globalThis, {onmessage: null, postMessage: data => told.push(data)});
  await import("../src/worker.js");
  const {error} = console;
  console.error = () => null;
  const file = {arrayBuffer() { throw 6584920; }};
  await globalThis.onmessage({data: {id: 7, file, wish: {}}});
  console.error = error;
  assert.equal(told.length, 1);
  assert.match(told[0].error, /not enough memory .*\(6584920\)/);
});

test("a file of the page that cannot be loaded is named", async () => {
  const told = [];
  globalThis.FILES = {megapixels: 16, runtimes: {},
    models: {other: {file: "other.model.gz", size: 9}}};
  Object.assign(globalThis, {onmessage: null, postMessage: data => told.push(data),
    createImageBitmap: async () => ({width: 1, height: 1, close() {}}),
    OffscreenCanvas: class {
      getContext() {
        return {drawImage() {}, getImageData: () => ({data: [9, 9, 9, 255]})};
      }
    }});
  await import("../src/worker.js?files");
  const {error} = console;
  console.error = () => null;
  const file = new Blob([bytes(PNG, [...ihdr(8)], [...chunk("IEND", [])])]);
  const broken = new ReadableStream({start: all => all.error(new Error("cut off"))});
  const answers = [() => { throw new TypeError("Failed to fetch"); },
    () => new Response("", {status: 404}), () => new Response(broken)];
  for (const fetched of answers) {
    globalThis.fetch = async () => fetched();
    await globalThis.onmessage({data: {id: 8, file, wish: {weights: "other"}}});
  }
  console.error = error;
  const said = reason => `other.model.gz cannot be loaded (${reason}): try again ` +
    "online, or close all tabs of this page, then open it again";
  assert.deepEqual(told.map(data => data.error),
    ["Failed to fetch", "404", "cut off"].map(said));
});
