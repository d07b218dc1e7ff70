// A network in parts, as lightbsr_jax/interop/parts.py writes it: exact for pictures of
// any size, tile by tile, because each stage is computed for all tiles before the next
// one begins and takes means over the whole picture.
import {Unusable} from "./headers.js";
import {MemoryMap} from "./maps.js";

const FORMAT = 1;
const ALIGNED = 4;  // LR pixels, the step of the smallest map
const RECONSTRUCT = 2;  // reach of the last stage, in LR pixels
const EDGE = 3;  // LR pixels that the outermost ones depend on

export class Cancelled extends Error {}

function float32(half) {
  const out = new Float32Array(half.length);
  for (let i = 0; i < half.length; i++) {
    const bits = half[i], exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 31 ? (fraction ? NaN : Infinity)
      : exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024)
      : 2 ** -14 * (fraction / 1024);
    out[i] = bits & 0x8000 ? -size : size;
  }
  return out;
}

const ints = values => BigInt64Array.from(values.map(BigInt));
const length = (from, to) => to - from;

// Ranges of about equal lengths, multiples of ALIGNED, none longer than `largest`.
export function ranges(size, largest) {
  const count = Math.ceil(size / largest);
  const each = Math.ceil(size / count / ALIGNED) * ALIGNED;
  const found = [];
  for (let at = 0; at < size; at += each) found.push([at, Math.min(at + each, size)]);
  return found;
}

export class Network {
  // `ort` is onnxruntime-web, `file` an ArrayBuffer, `options` those of its sessions.
  // `yielding` is awaited between tiles.
  constructor(ort, file, {options = {}, tile = 192, yielding = async () => {}} = {}) {
    const size = new DataView(file).getUint32(0, true);
    const text = new TextDecoder().decode(new Uint8Array(file, 4, size));
    this.plan = JSON.parse(text);
    if (this.plan.format !== FORMAT)
      throw new Unusable("the network is of another version than this page: close all " +
        "tabs of this page, then open it again");
    Object.assign(this, {ort, options, tile, yielding});
    this.data = file.slice(4 + size);
    this.sessions = new Map();
    this.weights = new Map();
    this.scale = this.plan.scale;
    this.border = this.plan.border;
  }

  session(name) {
    if (!this.sessions.has(name)) {
      const {at, bytes} = this.plan.graphs[name];
      const content = new Uint8Array(this.data, at, bytes);
      this.sessions.set(name,
        this.ort.InferenceSession.create(content, this.options));
    }
    return this.sessions.get(name);
  }

  // Starts all sessions, so that the first picture need not wait for them.
  async prepare() {
    for (const name of Object.keys(this.plan.graphs)) await this.session(name);
  }

  #tensors(stage) {
    if (!this.weights.has(stage))
      this.weights.set(stage, stage.weights.map(([at, kind, shape]) => {
        const count = shape.reduce((product, n) => product * n, 1);
        const bytes = this.data.slice(at, at + count * (kind === "h" ? 2 : 4));
        const values = kind === "h" ? float32(new Uint16Array(bytes))
          : new Float32Array(bytes);
        return new this.ort.Tensor("float32", values, shape);
      }));
    return this.weights.get(stage);
  }

  // Computes a stage: {name: {dims, data}} of its outputs.
  async run(stage, values, sizes = {}) {
    const {inputs, sizes: wanted} = this.plan.graphs[stage.graph];
    const feeds = {};
    inputs.forEach((name, index) => { feeds[name] = values[index]; });
    this.#tensors(stage).forEach((weight, index) => { feeds[`w${index}`] = weight; });
    for (const name of wanted)
      feeds[name] = new this.ort.Tensor("int64", ints(sizes[name]), [2]);
    const session = await this.session(stage.graph);
    const results = await session.run(feeds);
    const found = {};
    for (const [name, tensor] of Object.entries(results)) {
      found[name] = {dims: tensor.dims, data: await tensor.getData()};
      tensor.dispose();
    }
    return found;
  }

  // Restores pixels [height, width, 3], uint8 already mirrored beyond the edges.
  // `put(tile, values)` gets float32 SR pixels in 0..1 of places in the SR picture.
  async restore(pixels, height, width, {maps, put, onProgress, isCancelled}) {
    const pass = new Pass(this, pixels, height, width, {maps, onProgress, isCancelled});
    try {
      await pass.run(put);
    } finally {
      pass.free();
    }
  }
}

// The pass of one picture.
class Pass {
  constructor(network, pixels, height, width, {maps, onProgress, isCancelled}) {
    Object.assign(this, {network, height, width, store: maps, onProgress, isCancelled});
    const lr = new MemoryMap(0, 0, 3, Uint8Array);
    Object.assign(lr, {height, width, values: pixels});
    this.maps = new Map([["lr", lr]]);
    this.vectors = new Map();
    this.rows = ranges(height, network.tile);
    this.columns = ranges(width, network.tile);
    this.done = 0;
    const stages = network.plan.steps.filter(({kind}) => kind === "map").length + 1;
    this.total = stages * this.rows.length * this.columns.length;
  }

  async run(put) {
    const {steps, features} = this.network.plan;
    for (const [index, step] of steps.entries()) {
      if (step.kind === "map") await this.map(step);
      else await this.vector(step);
      this.forget(steps.slice(index + 1), features);
    }
    await this.reconstruct(put);
  }

  // Frees maps that no later step reads.
  forget(steps, features) {
    const needed = new Set([features,
      ...steps.flatMap(({inputs}) => inputs.map(({name}) => name))]);
    for (const [name, map] of this.maps) {
      if (needed.has(name)) continue;
      map.free();
      this.maps.delete(name);
    }
  }

  free() {
    for (const map of this.maps.values()) map.free();
  }

  async advance() {
    this.onProgress?.(++this.done, this.total);
    await this.network.yielding();
    if (this.isCancelled?.()) throw new Cancelled("cancelled");
  }

  // A tile with `reach` pixels around it, as far as the picture goes.
  window([top, bottom], [left, right], reach) {
    return {
      top: Math.max(top - reach, 0), bottom: Math.min(bottom + reach, this.height),
      left: Math.max(left - reach, 0), right: Math.min(right + reach, this.width),
    };
  }

  value({kind, name, step}, window) {
    const {ort} = this.network;
    if (kind !== "map") {
      const {data, dims} = this.vectors.get(name);
      return new ort.Tensor("float32", data, dims);
    }
    const map = this.maps.get(name), place = scaled(window, step);
    let values = map.read(place);
    if (values instanceof Uint8Array) values = Float32Array.from(values, x => x / 255);
    const dims = [1, length(place.top, place.bottom), length(place.left, place.right),
      map.channels];
    return new ort.Tensor("float32", values, dims);
  }

  async vector(step) {
    const values = step.inputs.map(input => this.value(input));
    const {out} = await this.network.run(step, values);
    this.vectors.set(step.into, out);
  }

  // Computes a step for all tiles. Where it overwrites its own input, a row of tiles is
  // written only when the next one, which reads it, has been computed.
  async map(step) {
    const overwrites = step.inputs.some(({name}) => name === step.into);
    const mean = new Mean();
    let waiting = [];
    for (const row of this.rows) {
      const made = [];
      for (const column of this.columns) {
        const {tile, out, sums} = await this.tile(step, row, column);
        if (sums) mean.add(sums, length(tile.top, tile.bottom) *
          length(tile.left, tile.right));
        if (overwrites) made.push([tile, out.data]);
        else (await this.target(step, out)).write(tile, out.data);
        await this.advance();
      }
      for (const [tile, data] of waiting) this.maps.get(step.into).write(tile, data);
      waiting = made;
    }
    for (const [tile, data] of waiting) this.maps.get(step.into).write(tile, data);
    if (mean.count) this.vectors.set(step.into, mean.vector());
  }

  async target(step, out) {
    if (!this.maps.has(step.into)) {
      const [height, width] = [this.height, this.width].map(
        size => Math.ceil(size / step.step));
      this.maps.set(step.into, await this.store.make(height, width, out.dims[3]));
    }
    return this.maps.get(step.into);
  }

  async tile(step, row, column) {
    const window = this.window(row, column, step.reach);
    const values = step.inputs.map(input => this.value(input, window));
    const around = scaled(window, step.step);
    const inner = {top: row[0], bottom: row[1], left: column[0], right: column[1]};
    const tile = scaled(inner, step.step);
    const {out, mean} = await this.network.run(step, values, {
      from: [tile.top - around.top, tile.left - around.left],
      to: [tile.bottom - around.top, tile.right - around.left],
      size: [length(window.top, window.bottom), length(window.left, window.right)],
    });
    return {tile, out, sums: mean};
  }

  // The SR picture, from the features before the upscaler. Its outermost LR pixels are
  // computed step by step: there every convolution pads.
  async reconstruct(put) {
    const {plan} = this.network;
    for (const row of this.rows)
      for (const column of this.columns) {
        const {height, width} = this;
        await this.part(plan.inside, row, column, put);
        const [top, bottom] = row, [left, right] = column;
        const edges = [
          [top === 0, [0, 1], column], [bottom === height, [height - 1, height], column],
          [left === 0, row, [0, 1]], [right === width, row, [width - 1, width]],
        ];
        for (const [is, rows, columns] of edges)
          if (is) await this.part(plan.stepwise, rows, columns, put);
        await this.advance();
      }
  }

  async part(stage, row, column, put) {
    const {scale, plan} = this.network;
    const window = this.window(row, column,
      stage === plan.inside ? RECONSTRUCT : EDGE - 1);
    const features = {kind: "map", name: plan.features, step: 1};
    const {out} = await this.network.run(stage, [this.value(features, window)], {
      from: [scale * (row[0] - window.top), scale * (column[0] - window.left)],
      to: [scale * (row[1] - window.top), scale * (column[1] - window.left)],
    });
    const [top, bottom, left, right] = [...row, ...column].map(n => n * scale);
    put({top, bottom, left, right}, out.data);
  }
}

// A window in pixels of a map with one of `step` LR pixels.
function scaled({top, left, bottom, right}, step) {
  return {top: Math.floor(top / step), left: Math.floor(left / step),
    bottom: Math.ceil(bottom / step), right: Math.ceil(right / step)};
}

// The mean over tiles of different sizes.
class Mean {
  constructor() { this.count = 0; }

  add({data, dims}, pixels) {
    this.dims = dims;
    this.sums ??= new Float64Array(data.length);
    for (let i = 0; i < data.length; i++) this.sums[i] += pixels * data[i];
    this.count += pixels;
  }

  vector() {
    const data = Float32Array.from(this.sums, sum => sum / this.count);
    return {data, dims: this.dims};
  }
}
