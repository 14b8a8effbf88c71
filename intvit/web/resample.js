/**
 * Pillow's `Image.resize` of 8-bit images, bit for bit: what a model's own library resizes with, which no canvas offers.
 *
 * Two passes, across and down. Each output pixel is a weighted sum of the input pixels under a filter that widens as the
 * image shrinks; the weights are rounded to 22 bits after the point, the sum to the nearest of 0 to 255
 * (Pillow, src/libImaging/Resample.c). Pillow 13 begins with the pass down where the height shrinks by more than twice
 * what the width does, which concerns images over twice as tall as wide; older ones always begin across.
 */

/**
 * @typedef {{width: number, height: number, channels: number, data: Uint8Array}} Pixels rows of interleaved channels
 */
/** @typedef {{reach: number, weight: (x: number) => number}} Filter */

const PRECISION = 22;

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** @param {number} x */
function cubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

/**
 * How far each filter reaches, and its weight at a distance, for an image that keeps its size.
 * @type {Record<string, Filter>}
 */
const FILTERS = {
  box: { reach: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: { reach: 1, weight: (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI))) },
  bicubic: { reach: 2, weight: cubic },
  lanczos: { reach: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/**
 * The image at another size; `filter` is one of Pillow's names in lower case.
 * @param {Pixels} image @param {number} width @param {number} height @param {string} filter
 * @returns {Pixels}
 */
export function resize(image, width, height, filter) {
  if (width === image.width && height === image.height) return image;
  if (filter === "nearest") return nearest(image, width, height);
  const shape = FILTERS[filter];
  const downFirst = height < image.height && image.height - height > 2 * (image.width - width);
  return downFirst
    ? across(down(image, height, shape), width, shape)
    : down(across(image, width, shape), height, shape);
}

/** @param {Pixels} image @param {number} width @param {number} height @returns {Pixels} */
function nearest({ width: w, height: h, channels, data }, width, height) {
  const out = new Uint8Array(width * height * channels);
  const columns = nearestPositions(w, width);
  let at = 0;
  for (const row of nearestPositions(h, height)) {
    for (const column of columns) {
      const from = (row * w + column) * channels;
      for (let c = 0; c < channels; c++) out[at++] = data[from + c];
    }
  }
  return { width, height, channels, data: out };
}

/**
 * By adding steps up, as Pillow does: their rounding decides ties.
 * @param {number} size @param {number} wanted
 */
function nearestPositions(size, wanted) {
  const step = size / wanted;
  const positions = [];
  for (let i = 0, at = step / 2; i < wanted; i++, at += step) positions.push(Math.min(size - 1, Math.trunc(at)));
  return positions;
}

/**
 * For each output position the first input position and its weights, in units of 2^-22.
 * @param {number} size @param {number} wanted @param {Filter} filter
 * @returns {{start: number, weights: Float64Array}[]}
 */
function taps(size, wanted, { reach, weight }) {
  const scale = size / wanted;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  return Array.from({ length: wanted }, (_, position) => {
    const center = (position + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(size, Math.trunc(center + support + 0.5));
    const exact = Float64Array.from({ length: end - start }, (_, i) => weight((i + start - center + 0.5) / stretch));
    const total = exact.reduce((sum, w) => sum + w, 0);
    const weights = exact.map((w) => {
      const scaled = (w / (total || 1)) * 2 ** PRECISION;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { start, weights };
  });
}

/** @param {number} sum weighted, in units of 2^-22 */
const rounded = (sum) => Math.min(255, Math.max(0, (sum + 2 ** (PRECISION - 1)) >> PRECISION));

/** @param {Pixels} image @param {number} wanted @param {Filter} filter @returns {Pixels} */
function across(image, wanted, filter) {
  const { width, height, channels, data } = image;
  if (wanted === width) return image;
  const out = new Uint8Array(wanted * height * channels);
  const columns = taps(width, wanted, filter);
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (const { start, weights } of columns) {
      const first = (y * width + start) * channels;
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let i = 0, from = first + c; i < weights.length; i++, from += channels) sum += data[from] * weights[i];
        out[at++] = rounded(sum);
      }
    }
  }
  return { width: wanted, height, channels, data: out };
}

/** @param {Pixels} image @param {number} wanted @param {Filter} filter @returns {Pixels} */
function down(image, wanted, filter) {
  const { width, height, channels, data } = image;
  if (wanted === height) return image;
  const stride = width * channels;
  const out = new Uint8Array(stride * wanted);
  let at = 0;
  for (const { start, weights } of taps(height, wanted, filter)) {
    for (let column = 0; column < stride; column++) {
      let sum = 0;
      for (let i = 0, from = start * stride + column; i < weights.length; i++, from += stride)
        sum += data[from] * weights[i];
      out[at++] = rounded(sum);
    }
  }
  return { width, height: wanted, channels, data: out };
}
