// Restores raw pixels by onnxruntime-web in Node.js, without threads:
// node restore.mjs MODEL IN OUT HEIGHT WIDTH TILE. IN has uint8 RGB, OUT gets float32
// RGB in 0..1.
import {readFileSync, writeFileSync} from "node:fs";
import * as ort from "onnxruntime-web";
import {Maps} from "../src/maps.js";
import {Network} from "../src/network.js";

const [model, source, target, ...numbers] = process.argv.slice(2);
const [height, width, tile] = numbers.map(Number);
ort.env.wasm.numThreads = 1;
const bytes = readFileSync(model);
const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
const network = new Network(ort, file, {tile});
const row = width * network.scale * 3;
const out = new Float32Array(height * network.scale * row);
const put = ({top, bottom, left, right}, values) => {
  const part = (right - left) * 3;
  for (let y = top; y < bottom; y++)
    out.set(values.subarray((y - top) * part, (y - top + 1) * part), y * row + left * 3);
};
await network.restore(new Uint8Array(readFileSync(source)), height, width,
  {maps: new Maps(4e9), put});
writeFileSync(target, new Uint8Array(out.buffer));
