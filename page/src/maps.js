// Maps [h, w, C] of a picture: in memory, or in files where they are too large for it.

const FOLDER = "lightbsr-maps";

export class MemoryMap {
  constructor(height, width, channels, ArrayKind = Float32Array) {
    Object.assign(this, {height, width, channels});
    this.values = new ArrayKind(height * width * channels);
  }

  // The values of rows `top` to `bottom` and columns `left` to `right`.
  read({top, left, bottom, right}) {
    const {values, width, channels} = this;
    const row = (right - left) * channels;
    const out = new values.constructor((bottom - top) * row);
    for (let y = top; y < bottom; y++) {
      const from = (y * width + left) * channels;
      out.set(values.subarray(from, from + row), (y - top) * row);
    }
    return out;
  }

  write({top, left, bottom, right}, part) {
    const {values, width, channels} = this;
    const row = (right - left) * channels;
    for (let y = top; y < bottom; y++)
      values.set(part.subarray((y - top) * row, (y - top + 1) * row),
        (y * width + left) * channels);
  }

  free() { this.values = null; }
}

// A map of float32 in a file with synchronous access, as workers of browsers have them.
export class FileMap {
  constructor(height, width, channels, file) {
    Object.assign(this, {height, width, channels, file});
    file.handle.truncate(4 * height * width * channels);
  }

  read({top, left, bottom, right}) {
    const row = (right - left) * this.channels;
    const out = new Float32Array((bottom - top) * row);
    for (let y = top; y < bottom; y++) {
      const part = out.subarray((y - top) * row, (y - top + 1) * row);
      this.file.handle.read(part, {at: 4 * (y * this.width + left) * this.channels});
    }
    return out;
  }

  write({top, left, bottom, right}, part) {
    const row = (right - left) * this.channels;
    for (let y = top; y < bottom; y++) {
      const bytes = part.subarray((y - top) * row, (y - top + 1) * row);
      const at = 4 * (y * this.width + left) * this.channels;
      if (this.#written(bytes, at) !== bytes.byteLength) throw new NoSpace();
    }
  }

  // How many bytes are written; on a full disk browsers write fewer, or throw.
  #written(bytes, at) {
    try {
      return this.file.handle.write(bytes, {at});
    } catch (error) {
      if (error.name === "QuotaExceededError") return 0;
      throw error;
    }
  }

  free() { this.file.close(); }
}

export class NoSpace extends Error {
  constructor() {
    super("there is not enough memory or disk space in this browser for a picture " +
      "this large: use lightbsr upscale, or a smaller picture");
  }
}

// Makes maps: in memory as long as they stay below a budget in bytes, else in files of
// the browser's private file system, which no other page can read.
export class Maps {
  constructor(budget, openFile = null) {
    Object.assign(this, {budget, openFile, used: 0});
  }

  async make(height, width, channels) {
    const bytes = 4 * height * width * channels;
    if (this.used + bytes > this.budget && this.openFile) {
      let file = null;
      try {
        file = await this.openFile();
        return new FileMap(height, width, channels, file);
      } catch {
        file?.close();
        throw new NoSpace();
      }
    }
    try {
      const map = new MemoryMap(height, width, channels);
      this.used += bytes;
      const free = map.free.bind(map);
      map.free = () => { this.used -= bytes; free(); };
      return map;
    } catch (error) {  // RangeError: the array cannot be allocated
      throw error instanceof RangeError ? new NoSpace() : error;
    }
  }
}

// Opens new files of the private file system; null where a browser has none. Those of
// an earlier visit are removed; files in use cannot be.
export async function privateFiles() {
  try {
    const root = await navigator.storage.getDirectory();
    await root.removeEntry(FOLDER, {recursive: true}).catch(() => null);
    const folder = await root.getDirectoryHandle(FOLDER, {create: true});
    if (!("createSyncAccessHandle" in FileSystemFileHandle.prototype)) return null;
    return async () => {
      const name = crypto.randomUUID();  // other tabs have maps here, too
      const file = await folder.getFileHandle(name, {create: true});
      const handle = await file.createSyncAccessHandle();
      const close = () => {
        handle.close();
        folder.removeEntry(name).catch(() => null);
      };
      return {handle, close};
    };
  } catch {
    return null;
  }
}
