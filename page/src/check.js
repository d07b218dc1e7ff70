// A trial of a network: what it makes of a small pattern, at some places. build.mjs keeps
// the values of WebAssembly, with which the page compares those of a graphics card.
import {Maps} from "./maps.js";

const SIDE = 24;  // LR pixels
const EVERY = 61;  // of the SR samples, one

export const TOLERANCE = 2e-3;  // half a level of 255

// SR samples in 0..1 of the pattern.
export async function trial(network) {
  const pixels = Uint8Array.from({length: SIDE * SIDE * 3},
    (_, n) => (n * n + 29 * n) % 256);
  const row = SIDE * network.scale * 3, sr = new Float32Array(row * row / 3);
  const put = ({top, bottom, left, right}, values) => {
    const part = 3 * (right - left);
    for (let y = top; y < bottom; y++)
      sr.set(values.subarray((y - top) * part, (y - top + 1) * part), y * row + 3 * left);
  };
  await network.restore(pixels, SIDE, SIDE, {maps: new Maps(1e9), put});
  return sr.filter((_, n) => n % EVERY === 0);
}

// The largest difference of two trials; NaN where a value is none.
export function difference(found, expected) {
  return expected.reduce((most, value, n) => Math.max(most, Math.abs(found[n] - value)),
    0);
}
