// A picture through a network: mirrored, restored, blended, at the size wished for.
import {Unusable} from "./headers.js";
import {finished, shown} from "./picture.js";
import {Bicubic, mirrored} from "./resample.js";

const MOST_SCALE = 4;  // of a result, beside the network's, for the largest picture

// The (height, width) wished for.
export function target({scale, size}, {height, width}, networkScale) {
  const [wide, high] = (size ?? "").split("x").map(Number);
  const side = n => Math.max(1, Math.round(n));
  if (high) return [high, wide || side(width * high / height)];
  if (wide) return [side(height * wide / width), wide];
  const times = Number(scale) || networkScale;
  return [side(height * times), side(width * times)];
}

// "a-x4.png", or "a-1920x1080.png" for a size in pixels.
export function resultName(name, {scale, size}, [height, width], networkScale, end) {
  const dot = name.lastIndexOf(".");
  const stem = dot > 0 ? name.slice(0, dot) : name;
  const times = size ? `${width}x${height}` : `x${Number(scale) || networkScale}`;
  return `${stem}-${times}.${end}`;
}

// The result of a picture, ready to be encoded. Raises Unusable and Cancelled.
export async function upscaled(network, picture, wish, options) {
  const {scale} = network;
  const size = target(wish, picture, scale);
  const most = options.megapixels * Math.max(scale, MOST_SCALE) ** 2;
  if (!size.every(n => n > 0) || size[0] * size[1] > 1e6 * most)
    throw new Unusable(`${size[1]} × ${size[0]} pixels are not within the ${most} ` +
      "megapixels that a result may have here: choose a smaller size");
  const pixels = shown(picture);
  const sr = await restored(network, pixels, picture, Number(wish.strength || 1),
    options);
  return finished(picture, sr, scale, size);
}

// The network's result [scale h, scale w, 3] in uint8 for the colours it sees; with a
// strength below 1 blended with the bicubic interpolation before the only rounding.
export async function restored(network, pixels, {height, width}, strength, options) {
  const {scale, border} = network, beyond = border * scale;
  const high = height * scale, wide = width * scale;
  // Rounds halves to even numbers, and clips.
  const out = new Uint8ClampedArray(high * wide * 3);
  const bicubic = strength < 1 ? new Bicubic(pixels, height, width, scale) : null;

  function put({top, bottom, left, right}, values) {
    const columns = right - left;
    for (let y = Math.max(top, beyond); y < Math.min(bottom, beyond + high); y++)
      for (let x = Math.max(left, beyond); x < Math.min(right, beyond + wide); x++) {
        const from = 3 * ((y - top) * columns + x - left);
        const row = y - beyond, column = x - beyond, to = 3 * (row * wide + column);
        for (let c = 0; c < 3; c++) {
          let value = values[from + c];
          if (bicubic)
            value = strength * value + (1 - strength) * bicubic.at(row, column, c);
          out[to + c] = 255 * value;
        }
      }
  }

  const extended = mirrored(pixels, height, width, border);
  await network.restore(extended, height + 2 * border, width + 2 * border,
    {...options, put});
  return new Uint8Array(out.buffer);
}
