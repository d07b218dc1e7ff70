// Resizing and blending, with the numbers of lightbsr upscale.

const sinc = x => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);

export const LANCZOS = {support: 3,
  at: x => Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0};

// Keys' cubic with a = -0.5.
export const CUBIC = {support: 2, at: x => {
  x = Math.abs(x);
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x <= 2 ? -0.5 * (x ** 3 - 5 * x * x + 8 * x - 4) : 0;
}};

// For each of `to` places the first of `from` samples and the weights of it and those
// that follow; a picture that shrinks is smoothed.
export function taps(from, to, {support, at}) {
  const step = from / to, wide = Math.max(step, 1), reach = support * wide;
  return Array.from({length: to}, (_, n) => {
    const centre = (n + 0.5) * step;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) weights.push(at((i - centre + 0.5) / wide));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return {first, weights: weights.map(weight => weight / sum)};
  });
}

// Resizes uint8 pixels [height, width, channels] to [newHeight, newWidth, channels].
export function resized(pixels, [height, width], [newHeight, newWidth], channels,
  kernel) {
  if (height === newHeight && width === newWidth) return pixels;
  const out = new Uint8ClampedArray(newHeight * newWidth * channels);
  const columns = taps(width, newWidth, kernel), rows = taps(height, newHeight, kernel);
  const middle = new Float32Array(height * newWidth);
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < height; y++)
      for (let x = 0; x < newWidth; x++) {
        const {first, weights} = columns[x];
        let sum = 0;
        for (let i = 0; i < weights.length; i++)
          sum += weights[i] * pixels[(y * width + first + i) * channels + channel];
        middle[y * newWidth + x] = sum;
      }
    for (let y = 0; y < newHeight; y++) {
      const {first, weights} = rows[y];
      for (let x = 0; x < newWidth; x++) {
        let sum = 0;
        for (let i = 0; i < weights.length; i++)
          sum += weights[i] * middle[(first + i) * newWidth + x];
        out[(y * newWidth + x) * channels + channel] = sum;
      }
    }
  }
  return new Uint8Array(out.buffer);
}

// The bicubic interpolation of a picture by an integer scale, pixel by pixel: edges
// repeat. `pixels` are uint8 [height, width, 3]; values are 0..1.
export class Bicubic {
  constructor(pixels, height, width, scale) {
    Object.assign(this, {pixels, width});
    this.rows = clamped(height, scale);
    this.columns = clamped(width, scale);
  }

  at(y, x, channel) {
    const {pixels, width} = this, row = this.rows[y], column = this.columns[x];
    let sum = 0;
    for (let i = 0; i < 4; i++) {
      const start = row.indices[i] * width;
      let line = 0;
      for (let j = 0; j < 4; j++)
        line += column.weights[j] * pixels[(start + column.indices[j]) * 3 + channel];
      sum += row.weights[i] * line;
    }
    return sum / 255;
  }
}

function clamped(size, scale) {
  return Array.from({length: size * scale}, (_, n) => {
    const centre = (n + 0.5) / scale - 0.5, first = Math.floor(centre) - 1;
    const weights = [0, 1, 2, 3].map(i => CUBIC.at(centre - first - i));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return {indices: [0, 1, 2, 3].map(i => Math.min(Math.max(first + i, 0), size - 1)),
      weights: weights.map(weight => weight / sum)};
  });
}

// A picture [height, width, 3] with its mirror image on all sides, edges repeated.
export function mirrored(pixels, height, width, border) {
  const high = height + 2 * border, wide = width + 2 * border;
  const out = new Uint8Array(high * wide * 3);
  const reflect = (n, size) => {
    const place = ((n % (2 * size)) + 2 * size) % (2 * size);
    return place < size ? place : 2 * size - 1 - place;
  };
  for (let y = 0; y < high; y++) {
    const row = reflect(y - border, height) * width;
    for (let x = 0; x < wide; x++) {
      const from = 3 * (row + reflect(x - border, width)), to = 3 * (y * wide + x);
      for (let c = 0; c < 3; c++) out[to + c] = pixels[from + c];
    }
  }
  return out;
}

// Gives pixels [height, width, 3] below full transparency, whose colour is arbitrary,
// that of the nearest visible pixel, in place.
export function fill(pixels, alpha, height, width) {
  if (!alpha.includes(0) || !alpha.some(value => value)) return;
  const nearest = nearestVisible(alpha, height, width);
  const old = pixels.slice();
  for (let n = 0; n < alpha.length; n++)
    if (!alpha[n])
      for (let c = 0; c < 3; c++) pixels[3 * n + c] = old[3 * nearest[n] + c];
}

// The index of the nearest pixel that is not fully transparent, by the lower envelope of
// parabolas (Felzenszwalb and Huttenlocher): along columns, then along rows.
function nearestVisible(alpha, height, width) {
  const row = new Int32Array(height * width).fill(-1);  // of the nearest in the column
  for (let x = 0; x < width; x++) {
    let seen = -1;
    for (let y = 0; y < height; y++) {
      if (alpha[y * width + x]) seen = y;
      row[y * width + x] = seen;
    }
    seen = -1;
    for (let y = height - 1; y >= 0; y--) {
      const at = y * width + x;
      if (alpha[at]) seen = y;
      if (seen >= 0 && (row[at] < 0 || seen - y < y - row[at])) row[at] = seen;
    }
  }
  const out = new Int32Array(height * width);
  const places = new Int32Array(width), bounds = new Float64Array(width + 1);
  for (let y = 0; y < height; y++) {
    let count = 0;
    const far = x => (y - row[y * width + x]) ** 2 + x * x;
    for (let x = 0; x < width; x++) {
      if (row[y * width + x] < 0) continue;
      let meet = -Infinity;
      while (count) {
        const last = places[count - 1];
        meet = (far(x) - far(last)) / (2 * (x - last));
        if (meet > bounds[count - 1]) break;
        count--;
        meet = -Infinity;
      }
      bounds[count] = meet;
      places[count++] = x;
    }
    bounds[count] = Infinity;
    for (let x = 0, k = 0; x < width; x++) {
      while (bounds[k + 1] < x) k++;
      out[y * width + x] = row[y * width + places[k]] * width + places[k];
    }
  }
  return out;
}
