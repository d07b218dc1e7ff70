// Reading and writing pictures by the browser's own decoders, and what a network sees of
// them: as lightbsr_jax/imaging/photographs.py and conversion.py.
import {inspect, joined, Unusable, updated} from "./headers.js";
import * as png from "./png.js";
import {CUBIC, fill, LANCZOS, resized} from "./resample.js";

export const FORMATS = ["png", "jpg"];
const TEXTURE = 2048;  // pixels along a side
const MOST_PROFILE = 65519;  // bytes of a segment of a JPEG
const MOST_EXIF = 65527;  // the same
const MOST_HEAD = 2 ** 17;  // bytes of what a browser states before a JPEG's picture

// {kind, width, height, grey, colour [h, w, 3], alpha [h, w] or null, profile, exif}.
// Upright, unless `asStored` (see headers.js): browsers follow the orientation of EXIF,
// some of them only in JPEG files. Raises Unusable.
export async function read(file, megapixels) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const head = inspect(bytes);
  const check = (width, height) => {
    if (width * height > 1e6 * megapixels)
      throw new Unusable(`${width} × ${height} pixels exceed the ${megapixels} ` +
        "megapixels that this page takes: lightbsr upscale takes up to 178");
  };
  check(head.width ?? 0, head.height ?? 0);
  const bitmap = await decoded(file, head);
  const {width, height} = bitmap;
  check(width, height);
  const {colour, alpha} = await samples(bitmap);
  bitmap.close();
  let profile = head.profile;
  if (profile?.packed) profile = await png.inflated(profile.packed).catch(() => null);
  const fits = !head.grey && !head.hidden && isRgb(profile);
  const asStored = width !== height && head.width === width && head.height === height;
  return {...head, profile: fits ? profile : null, hadProfile: Boolean(head.profile),
    width, height, asStored, colour, alpha};
}

async function decoded(file, {kind, hidden}) {
  try {
    // The samples as they are, because the profile is kept for the result; converted to
    // sRGB where it cannot be.
    return await createImageBitmap(file, {premultiplyAlpha: "none",
      colorSpaceConversion: hidden ? "default" : "none"});
  } catch {
    const said = kind ? `damaged, or a ${kind.toUpperCase()} that this browser cannot ` +
      "read" : "no picture that this browser can read, or damaged";
    throw new Unusable(`the file is ${said}`);
  }
}

// A canvas rounds colours below transparency to few levels; textures keep them.
async function samples(bitmap) {
  const {width, height} = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  const {data} = context.getImageData(0, 0, width, height);
  const found = split(data);
  if (!found.alpha) return found;
  const exact = await fromTexture(bitmap).catch(() => null);
  return exact ? split(exact) : found;
}

// The samples [h, w, 4] of a bitmap by way of WebGL; null where there is none.
async function fromTexture(bitmap) {
  const {width, height} = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const out = new Uint8Array(4 * width * height);
  for (let top = 0; top < height; top += TEXTURE)
    for (let left = 0; left < width; left += TEXTURE) {
      const wide = Math.min(TEXTURE, width - left), high = Math.min(TEXTURE, height - top);
      const part = await createImageBitmap(bitmap, left, top, wide, high,
        {premultiplyAlpha: "none", colorSpaceConversion: "none"});
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, part);
      part.close();
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D,
        gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
      const values = new Uint8Array(4 * wide * high);
      gl.readPixels(0, 0, wide, high, gl.RGBA, gl.UNSIGNED_BYTE, values);
      if (gl.getError()) return null;
      for (let y = 0; y < high; y++)
        out.set(values.subarray(4 * y * wide, 4 * (y + 1) * wide),
          4 * ((top + y) * width + left));
    }
  gl.getExtension("WEBGL_lose_context")?.loseContext();  // browsers have few of them
  return out;
}

function split(data) {
  const pixels = data.length / 4;
  const colour = new Uint8Array(3 * pixels), alpha = new Uint8Array(pixels);
  let opaque = true;
  for (let n = 0; n < pixels; n++) {
    for (let c = 0; c < 3; c++) colour[3 * n + c] = data[4 * n + c];
    alpha[n] = data[4 * n + 3];
    opaque &&= alpha[n] === 255;
  }
  return {colour, alpha: opaque ? null : alpha};
}

const isRgb = profile => profile?.length > 128
  && String.fromCharCode(...profile.subarray(16, 20)) === "RGB ";

// The colours that a network sees.
export function shown({colour, alpha, width, height}) {
  const pixels = colour.slice();
  if (alpha) fill(pixels, alpha, height, width);
  return pixels;
}

// Whether all channels are equal, to one level.
function isGrey(colour) {
  for (let n = 0; n < colour.length; n += 3) {
    const [r, g, b] = [colour[n], colour[n + 1], colour[n + 2]];
    if (Math.max(r, g, b) - Math.min(r, g, b) > 1) return false;
  }
  return true;
}

// The result of a picture: `pixels` [scale h, scale w, 3] of the network, resized to
// `size`, with the picture's transparency; grey stays grey.
export function finished(picture, pixels, scale, [height, width]) {
  const old = [picture.height, picture.width];
  let colour = resized(pixels, old.map(n => n * scale), [height, width], 3, LANCZOS);
  let channels = 3;
  if (isGrey(picture.colour)) {
    const grey = new Uint8ClampedArray(colour.length / 3);
    for (let n = 0; n < grey.length; n++)
      grey[n] = (colour[3 * n] + colour[3 * n + 1] + colour[3 * n + 2]) / 3;
    channels = picture.grey ? 1 : 3;
    colour = channels === 1 ? new Uint8Array(grey.buffer)
      : Uint8Array.from(colour, (_, n) => grey[Math.floor(n / 3)]);
  }
  const alpha = picture.alpha
    && resized(picture.alpha, old, [height, width], 1, CUBIC);
  return {colour, channels, alpha, width, height, profile: picture.profile,
    exif: picture.exif && updated(picture.exif, width, height, picture.asStored)};
}

// The file of a result or a picture, as a Blob.
export async function encoded(image, format, quality = 95) {
  return format === "png" ? asPng(image) : asJpeg(image, quality);
}

function asPng({colour, channels, alpha, ...image}) {
  if (!alpha) return png.encode(colour, {...image, channels});
  const all = channels + 1, pixels = new Uint8Array(alpha.length * all);
  for (let n = 0; n < alpha.length; n++) {
    for (let c = 0; c < channels; c++) pixels[n * all + c] = colour[n * channels + c];
    pixels[n * all + channels] = alpha[n];
  }
  return png.encode(pixels, {...image, channels: all});
}

// On white where it is transparent.
async function asJpeg({colour, channels, alpha, width, height, profile, exif}, quality) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", {alpha: false});
  if (!context) throw new Unusable(`${width} × ${height} pixels are too many for a ` +
    "JPEG in this browser: choose PNG");
  const ROWS = 256;
  for (let top = 0; top < height; top += ROWS) {
    const rows = Math.min(ROWS, height - top);
    const data = new ImageData(width, rows);
    for (let n = 0, at = top * width; n < rows * width; n++, at++) {
      const opacity = alpha ? alpha[at] / 255 : 1;
      for (let c = 0; c < 3; c++)
        data.data[4 * n + c] = opacity * colour[at * channels + (channels === 1 ? 0 : c)]
          + 255 * (1 - opacity);
      data.data[4 * n + 3] = 255;
    }
    context.putImageData(data, 0, top);
  }
  const blob = await canvas.convertToBlob({type: "image/jpeg", quality: quality / 100})
    .catch(() => null);
  if (!blob) throw new Unusable(`${width} × ${height} pixels are too many for a JPEG ` +
    "in this browser: choose PNG");
  return withNotes(blob, profile, exif);
}

// Whether a format has room for EXIF.
export function holdsExif(format, exif) {
  return format !== "jpg" || exif.length <= MOST_EXIF;
}

// A JPEG of a canvas with a colour profile and EXIF after its first two bytes.
async function withNotes(blob, profile, exif) {
  const parts = [blob.slice(0, 2)];
  const segment = (marker, name, body) => {
    const start = new TextEncoder().encode(name), size = 2 + start.length + body.length;
    parts.push(joined([new Uint8Array([0xff, marker, size >> 8, size & 255]), start,
      body]));
  };
  if (exif && holdsExif("jpg", exif)) segment(0xe1, "Exif\0\0", exif);
  const count = Math.ceil((profile?.length ?? 0) / MOST_PROFILE);
  for (let n = 0; n < count; n++) {
    const part = profile.subarray(n * MOST_PROFILE, (n + 1) * MOST_PROFILE);
    segment(0xe2, "ICC_PROFILE\0", joined([new Uint8Array([n + 1, count]), part]));
  }
  parts.push(...await withoutProfile(blob));
  return new Blob(parts, {type: "image/jpeg"});
}

// The parts of a JPEG after its first two bytes, without the profile that some browsers
// add: two profiles in one file count as none.
async function withoutProfile(blob) {
  const head = new Uint8Array(await blob.slice(0, MOST_HEAD).arrayBuffer());
  const parts = [];
  let at = 2;
  while ((head[at + 1] & 0xf0) === 0xe0) {  // segments of programs, which come first
    const next = at + 2 + 256 * head[at + 2] + head[at + 3];
    if (head[at + 1] !== 0xe2) parts.push(blob.slice(at, next));
    at = next;
  }
  return [...parts, blob.slice(at)];
}
