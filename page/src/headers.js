// What the first bytes of a picture say: its kind, size, colour profile and EXIF, and
// why it cannot be upscaled here, if so.

// An error in words for the visitor: of a picture, or of a file of the page.
export class Unusable extends Error {}

const text = (bytes, at, count) =>
  String.fromCharCode(...bytes.subarray(at, at + count));
const CMYK = "it is in CMYK, a printer's colours: convert it to RGB";
const MOVES = "it is an animation: save one of its pictures by itself";
const BROKEN = "the file is damaged: it ends too early";
const deep = bits => `it has ${bits} bits per channel, and a browser reads only 8: ` +
  "lightbsr upscale and lightbsr serve keep them";

// {kind, width, height, grey, profile, exif}: null where the file does not say.
// `profile` of a PNG is {packed}, still compressed. `hidden`: its colours may be others
// than those of `profile`, or of sRGB without one. `hadExif`: it has EXIF, read or not.
// Raises Unusable.
export function inspect(bytes) {
  const found = inspected(bytes);
  const hidden = !["png", "jpg", "webp", "gif", "bmp"].includes(found.kind);
  return {hadExif: Boolean(found.exif), hidden, ...found};
}

function inspected(bytes) {
  const found = {kind: null, width: null, height: null, grey: false, profile: null,
    exif: null};
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!bytes.length) throw new Unusable("the file is empty");
  try {
    if (text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n") return png(bytes, view, found);
    if (view.getUint16(0) === 0xffd8) return jpeg(bytes, view, found);
    if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 4) === "WEBP")
      return webp(bytes, view, found);
    if (text(bytes, 0, 4) === "GIF8") return gif(bytes, view, found);
    if (text(bytes, 0, 2) === "BM") return bmp(view, found);
    if (["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(text(bytes, 0, 4)))
      throw new Unusable("browsers do not read TIFF: lightbsr upscale and " +
        "lightbsr serve do, or save it as PNG");
    if (text(bytes, 4, 4) === "ftyp") return heif(bytes, found);
  } catch (error) {
    if (error instanceof RangeError) throw new Unusable(BROKEN);
    throw error;
  }
  return found;
}

function png(bytes, view, found) {
  found.kind = "png";
  const others = {};  // whether a chunk states other colours than those of sRGB
  const isFar = (value, usual) => Math.abs(value - usual) > 500;
  for (let at = 8; ;) {
    const size = view.getUint32(at), kind = text(bytes, at + 4, 4), body = at + 8;
    if (kind === "IHDR") {
      found.width = view.getUint32(body);
      found.height = view.getUint32(body + 4);
      found.grey = [0, 4].includes(bytes[body + 9]);
      if (bytes[body + 8] === 16) throw new Unusable(deep(16));
    }
    if (kind === "acTL") throw new Unusable(MOVES);
    if (kind === "cICP" && [16, 18].includes(bytes[body + 1]))
      throw new Unusable("it is in high dynamic range, for which no weights are made");
    if (kind === "cICP") others.cICP = bytes[body] !== 1 || bytes[body + 1] !== 13;
    if (kind === "sRGB") others.sRGB = false;
    if (kind === "gAMA") others.gAMA = isFar(view.getUint32(body), 45455);
    if (kind === "cHRM") others.cHRM = isFar(view.getUint32(body + 8), 64000);
    if (kind === "iCCP") {
      const name = bytes.indexOf(0, body) + 2;
      found.profile = {packed: bytes.slice(name, body + size)};
    }
    if (kind === "eXIf") found.exif = bytes.slice(body, body + size);
    if (kind === "IEND") break;
    at = body + size + 4;
  }
  if (found.profile) others.sRGB = false;
  return {...found, hidden: others.cICP ?? others.sRGB
    ?? Boolean(others.gAMA || others.cHRM)};
}

function jpeg(bytes, view, found) {
  found.kind = "jpg";
  const parts = [];
  for (let at = 2; ;) {
    if (view.getUint8(at) !== 0xff) throw new Unusable("the file is damaged");
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) { at++; continue; }
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) { at += 2; continue; }
    if (marker === 0xd9) throw new Unusable(BROKEN);
    const size = view.getUint16(at + 2), body = at + 4;
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      if (bytes[body] !== 8) throw new Unusable(deep(bytes[body]));
      found.height = view.getUint16(body + 1);
      found.width = view.getUint16(body + 3);
      found.grey = bytes[body + 5] === 1;
      if (view.getUint8(body + 5) === 4) throw new Unusable(CMYK);
    }
    if (marker === 0xe1 && text(bytes, body, 6) === "Exif\0\0")
      found.exif ??= bytes.slice(body + 6, at + 2 + size);
    if (marker === 0xe2 && text(bytes, body, 12) === "ICC_PROFILE\0")
      parts[bytes[body + 12]] = bytes.slice(body + 14, at + 2 + size);
    at += 2 + size;
    if (marker !== 0xda) continue;
    if (parts.length) found.profile = joined(parts.filter(Boolean));
    if (!ends(bytes, at)) throw new Unusable(BROKEN);
    return found;
  }
}

// Whether the end of a JPEG's picture follows.
function ends(bytes, at) {
  for (let i = at; (i = bytes.indexOf(0xff, i)) >= 0; i++)
    if (bytes[i + 1] === 0xd9) return true;
  return false;
}

function webp(bytes, view, found) {
  found.kind = "webp";
  const end = view.getUint32(4, true) + 8;
  if (end > bytes.length) throw new Unusable(BROKEN);
  for (let at = 12; at + 8 <= end;) {
    const kind = text(bytes, at, 4), size = view.getUint32(at + 4, true), body = at + 8;
    const part = () => bytes.slice(body, body + size);
    if (kind === "VP8X") {
      if (bytes[body] & 2) throw new Unusable(MOVES);
      const three = i => 1 + view.getUint16(i, true) + (bytes[i + 2] << 16);
      Object.assign(found, {width: three(body + 4), height: three(body + 7)});
    }
    if (kind === "VP8 " && !found.width) {
      found.width = view.getUint16(body + 6, true) & 0x3fff;
      found.height = view.getUint16(body + 8, true) & 0x3fff;
    }
    if (kind === "VP8L" && !found.width) {
      const bits = view.getUint32(body + 1, true);
      found.width = (bits & 0x3fff) + 1;
      found.height = ((bits >> 14) & 0x3fff) + 1;
    }
    if (kind === "ICCP") found.profile = part();
    if (kind === "EXIF")
      found.exif = text(bytes, body, 6) === "Exif\0\0" ? part().slice(6) : part();
    at = body + size + (size & 1);
  }
  return found;
}

function gif(bytes, view, found) {
  Object.assign(found, {kind: "gif", width: view.getUint16(6, true),
    height: view.getUint16(8, true)});
  const table = flags => flags & 0x80 ? 3 << ((flags & 7) + 1) : 0;
  const blocks = at => {
    for (let size; (size = view.getUint8(at)); at += size + 1);
    return at + 1;
  };
  let pictures = 0;
  for (let at = 13 + table(bytes[10]); ;) {
    const kind = view.getUint8(at);
    if (kind === 0x3b) return found;
    if (kind === 0x21) at = blocks(at + 2);
    else if (kind === 0x2c) {
      if (++pictures > 1) throw new Unusable(MOVES);
      at = blocks(at + 11 + table(view.getUint8(at + 9)));
    } else throw new Unusable("the file is damaged");
  }
}

function bmp(view, found) {
  if (view.getUint32(14, true) < 40) return {...found, kind: "bmp"};
  return {...found, kind: "bmp", width: view.getInt32(18, true),
    height: Math.abs(view.getInt32(22, true))};
}

// AVIF and HEIC: boxes in boxes, of which two are looked for where they usually are.
function heif(bytes, found) {
  const brand = text(bytes, 8, 4);
  if (brand === "avis") throw new Unusable(MOVES);
  found.kind = brand.startsWith("avif") ? "avif" : "heic";
  const head = text(bytes.subarray(0, 4096), 0, Math.min(bytes.length, 4096));
  const config = head.indexOf("av1C");
  if (config >= 0 && bytes[config + 6] & 0x40)
    throw new Unusable(deep(bytes[config + 6] & 0x20 ? 12 : 10));
  return {...found, hadExif: head.includes("infe") && head.includes("Exif")};
}

export function joined(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const ORIENTATION = 0x0112, DETAILS = 0x8769;
const WIDTHS = [0x0100, 0xa002], HEIGHTS = [0x0101, 0xa003];
const SHORT = 3, LONG = 4;
const TURNED = 5;  // the first orientation that exchanges width and height

// EXIF for a picture that stands upright and has another size: without the orientation
// and the small copy of the picture. null where it cannot be read. `asStored`: the
// picture has the width and the height of the file, so that nobody has turned it; then
// an orientation that turns it stays.
export function updated(exif, width, height, asStored = false) {
  const out = exif.slice();
  const view = new DataView(out.buffer);
  try {
    const little = view.getUint16(0) === 0x4949;
    const set = (at, kind, value) => {
      view.setUint16(at + 2, kind, little);
      view.setUint32(at + 4, 1, little);
      view.setUint32(at + 8, 0, little);
      if (kind === SHORT) view.setUint16(at + 8, value, little);
      else view.setUint32(at + 8, value, little);
    };
    const visit = start => {
      const count = view.getUint16(start, little);
      for (let n = 0; n < count; n++) {
        const at = start + 2 + 12 * n, tag = view.getUint16(at, little);
        if (tag === ORIENTATION
            && !(asStored && view.getUint16(at + 8, little) >= TURNED))
          set(at, SHORT, 1);
        if (WIDTHS.includes(tag)) set(at, LONG, width);
        if (HEIGHTS.includes(tag)) set(at, LONG, height);
        if (tag === DETAILS) visit(view.getUint32(at + 8, little));
      }
      return start + 2 + 12 * count;
    };
    const next = visit(view.getUint32(4, little));
    view.setUint32(next, 0, little);
    return out;
  } catch {
    return null;
  }
}
