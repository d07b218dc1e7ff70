// A .zip of files as they are, without compression: pictures are compressed already.

const TABLE = new Uint32Array(256).map((_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

export function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// Fields of 2 or 4 bytes, little-endian: [[2, value], [4, value], ...].
function fields(pairs) {
  const view = new DataView(new ArrayBuffer(pairs.reduce((sum, [n]) => sum + n, 0)));
  let at = 0;
  for (const [size, value] of pairs) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return view.buffer;
}

// Names, each once: of two a.png the second is a-2.png. Many disks do not tell A from a.
export function distinct(names) {
  const taken = new Set();
  return names.map(name => {
    const dot = name.lastIndexOf(".");
    let other = name;
    for (let n = 2; taken.has(other.toLowerCase()); n++)
      other = `${name.slice(0, dot)}-${n}${name.slice(dot)}`;
    taken.add(other.toLowerCase());
    return other;
  });
}

// The Blob of a .zip of [{name, blob}]. RangeError beyond the 4 GB of the format.
export async function zip(files) {
  const names = distinct(files.map(file => file.name));
  const parts = [], directory = [];
  let offset = 0;
  for (const [index, {blob}] of files.entries()) {
    if (offset + blob.size > 0xfff00000)
      throw new RangeError("more than 4 GB: download the pictures one by one");
    const name = new TextEncoder().encode(names[index]);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    const about = [[2, 20], [2, 0x800], [2, 0], [4, 0x00210000], [4, crc],
      [4, blob.size], [4, blob.size], [2, name.length], [2, 0]];
    const head = fields([[4, 0x04034b50], ...about]);
    parts.push(head, name, blob);
    directory.push(fields([[4, 0x02014b50], [2, 20], ...about, [2, 0], [2, 0], [2, 0],
      [4, 0], [4, offset]]), name);
    offset += head.byteLength + name.length + blob.size;
  }
  const size = new Blob(directory).size;
  const end = fields([[4, 0x06054b50], [2, 0], [2, 0], [2, files.length],
    [2, files.length], [4, size], [4, offset], [2, 0]]);
  return new Blob([...parts, ...directory, end], {type: "application/zip"});
}
