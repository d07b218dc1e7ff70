// Resizes and interpolates raw pixels: node resample.mjs IN OUT HEIGHT WIDTH HIGH WIDE
// SCALE. IN has uint8 RGB. OUT gets three parts: IN resized to HIGH x WIDE by Lanczos
// and by cubic interpolation, and SCALE times as large by the bicubic one that blends.
import {readFileSync, writeFileSync} from "node:fs";
import {Bicubic, CUBIC, LANCZOS, resized} from "../src/resample.js";

const [source, target, ...numbers] = process.argv.slice(2);
const [height, width, high, wide, scale] = numbers.map(Number);
const pixels = new Uint8Array(readFileSync(source));
const parts = [LANCZOS, CUBIC].map(kernel =>
  resized(pixels, [height, width], [high, wide], 3, kernel));
const bicubic = new Bicubic(pixels, height, width, scale);
const blended = new Uint8ClampedArray(height * width * scale ** 2 * 3);
for (let y = 0, n = 0; y < height * scale; y++)
  for (let x = 0; x < width * scale; x++)
    for (let c = 0; c < 3; c++) blended[n++] = 255 * bicubic.at(y, x, c);
writeFileSync(target, Buffer.concat([...parts, new Uint8Array(blended.buffer)]));
