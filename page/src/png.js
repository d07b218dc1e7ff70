// Writing PNG files of 8 bits, a few rows at a time: of any size, with exact colours
// below transparency, a colour profile and EXIF. A browser's canvas has none of these.
import {crc32} from "../../lightbsr_jax/inference/static/zip.js";

const KINDS = {1: 0, 2: 4, 3: 2, 4: 6};  // channels to the colour type
const ROWS = 64;  // filtered at once

function chunk(name, body) {
  const out = new Uint8Array(body.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, body.length);
  out.set(new TextEncoder().encode(name), 4);
  out.set(body, 8);
  view.setUint32(body.length + 8, crc32(out.subarray(4, body.length + 8)));
  return out;
}

async function through(stream, parts) {
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  const found = [];
  const reading = async () => {
    for (let part; !(part = await reader.read()).done;) found.push(part.value);
  };
  const writing = async () => {
    for await (const part of parts) await writer.write(part);
    await writer.close();
  };
  await Promise.all([reading(), writing()]);
  return found;
}

const blobOf = async parts => new Uint8Array(await new Blob(parts).arrayBuffer());
export const deflated = async bytes =>
  blobOf(await through(new CompressionStream("deflate"), [bytes]));
export const inflated = async bytes =>
  blobOf(await through(new DecompressionStream("deflate"), [bytes]));
export const gunzipped = async bytes =>
  blobOf(await through(new DecompressionStream("gzip"), [bytes]));

// A row filtered in each of three ways; the one with the smallest sum is kept.
function filtered(row, above, step, out, scratch) {
  let best = Infinity;
  for (const kind of [1, 2, 4]) {
    let sum = 0;
    for (let i = 0; i < row.length; i++) {
      const left = i < step ? 0 : row[i - step], up = above ? above[i] : 0;
      let guess = left;
      if (kind === 2) guess = up;
      if (kind === 4) {
        const corner = i < step || !above ? 0 : above[i - step];
        const p = left + up - corner;
        const [a, b, c] = [Math.abs(p - left), Math.abs(p - up), Math.abs(p - corner)];
        guess = a <= b && a <= c ? left : b <= c ? up : corner;
      }
      const value = (row[i] - guess) & 255;
      scratch[i] = value;
      sum += value < 128 ? value : 256 - value;
    }
    if (sum < best) {
      best = sum;
      out[0] = kind;
      out.set(scratch, 1);
    }
  }
}

async function* rows(pixels, width, height, channels) {
  const size = width * channels, scratch = new Uint8Array(size);
  for (let top = 0; top < height; top += ROWS) {
    const count = Math.min(ROWS, height - top);
    const out = new Uint8Array(count * (size + 1));
    for (let n = 0; n < count; n++) {
      const at = (top + n) * size;
      const above = top + n ? pixels.subarray(at - size, at) : null;
      filtered(pixels.subarray(at, at + size), above, channels,
        out.subarray(n * (size + 1), (n + 1) * (size + 1)), scratch);
    }
    yield out;
  }
}

// A Blob of pixels [height, width, channels], of 1 (grey) to 4 channels.
export async function encode(pixels, {width, height, channels, profile, exif}) {
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, KINDS[channels]], 8);
  const parts = [new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", head)];
  if (profile) {
    const packed = await deflated(profile);
    parts.push(chunk("iCCP", new Uint8Array([105, 99, 99, 0, 0, ...packed])));
  }
  if (exif) parts.push(chunk("eXIf", exif));
  const stream = new CompressionStream("deflate");
  for (const part of await through(stream, rows(pixels, width, height, channels)))
    parts.push(chunk("IDAT", part));
  parts.push(chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, {type: "image/png"});
}
