/**
 * From an image to the uint8 pixels that the model reads, as its stored `preprocessing` says: resize, crop the middle.
 *
 * The rules are those of `intvit.preprocess`. Three things are the browser's: decoding (a JPEG may come out a unit off),
 * turning a photograph as its EXIF says, and what lies under full transparency, which a canvas forgets.
 */

import { resize } from "./resample.js";

/** @typedef {import("./resample.js").Pixels} Pixels */
/**
 * @typedef {{size: [number, number], resize: number | [number, number] | null, fit: string, crop: string,
 *   interpolation: string, mean: number[], alpha: string, order: string}} Preprocessing sizes are height, width
 */

/**
 * What a model without a stored preprocessing gets: the largest middle part of the image.
 * @param {[number, number]} size @param {number} channels @returns {Preprocessing}
 */
export function coverage(size, channels) {
  const mean = Array(channels).fill(0);
  return {
    size,
    resize: size,
    fit: "cover",
    crop: "center",
    interpolation: "bicubic",
    mean,
    alpha: "white",
    order: "rgb",
  };
}

/**
 * The pixels of a decoded image.
 * @param {CanvasImageSource & {width: number, height: number}} image @param {Preprocessing} how
 * @returns {Uint8Array} height · width · channels
 */
export function preprocess(image, how) {
  const opaque = convert(read(image), how);
  const [height, width] = resizedTo(opaque.height, opaque.width, how);
  const resized = resize(opaque, width, height, how.interpolation);
  const cropped = how.crop === "none" ? resized : crop(resized, how);
  if (cropped.height !== how.size[0] || cropped.width !== how.size[1]) {
    throw new Error(
      `The image is ${cropped.width} × ${cropped.height} after preprocessing; ` +
        `the model takes ${how.size[1]} × ${how.size[0]}.`,
    );
  }
  return how.order === "bgr" ? swapped(cropped.data) : cropped.data;
}

/** @param {CanvasImageSource & {width: number, height: number}} image */
function read(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("This image is too large for this browser.");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

/**
 * Without transparency, in the model's channels.
 * @param {ImageData} image @param {Preprocessing} how @returns {Pixels}
 */
function convert({ width, height, data }, how) {
  const channels = how.mean.length;
  const out = new Uint8Array(width * height * channels);
  const onWhite = how.alpha === "white";
  for (let from = 0, at = 0; from < data.length; from += 4) {
    let [r, g, b] = [data[from], data[from + 1], data[from + 2]];
    const a = data[from + 3];
    if (onWhite && a < 255) [r, g, b] = [r, g, b].map((value) => Math.round((value * a + 255 * (255 - a)) / 255));
    if (channels === 1) {
      out[at++] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; // Pillow's "L"
    } else {
      out[at++] = r;
      out[at++] = g;
      out[at++] = b;
    }
  }
  return { width, height, channels, data: out };
}

/** @param {number} height @param {number} width @param {Preprocessing} how @returns {[number, number]} */
function resizedTo(height, width, how) {
  if (how.resize === null) return [height, width];
  if (typeof how.resize === "number") {
    const long = Math.trunc((how.resize * Math.max(height, width)) / Math.min(height, width));
    return width <= height ? [long, how.resize] : [how.resize, long];
  }
  if (how.fit === "squash") return how.resize;
  const ratios = [height / how.resize[0], width / how.resize[1]];
  const ratio = how.fit === "cover" ? Math.min(...ratios) : Math.max(...ratios);
  return [Math.max(1, halfToEven(height / ratio)), Math.max(1, halfToEven(width / ratio))];
}

/**
 * The middle of the image, on a border where it is too small.
 * @param {Pixels} image @param {Preprocessing} how @returns {Pixels}
 */
function crop({ width, height, channels, data }, how) {
  const [wantedHeight, wantedWidth] = how.size;
  const top = margin(height, wantedHeight, how.crop);
  const left = margin(width, wantedWidth, how.crop);
  const border = how.mean.map((mean) => (how.fit === "contain" ? halfToEven(255 * mean) : 0));
  const out = new Uint8Array(wantedHeight * wantedWidth * channels);
  let at = 0;
  for (let y = top; y < top + wantedHeight; y++) {
    for (let x = left; x < left + wantedWidth; x++) {
      const inside = y >= 0 && y < height && x >= 0 && x < width;
      const from = (y * width + x) * channels;
      for (let c = 0; c < channels; c++) out[at++] = inside ? data[from + c] : border[c];
    }
  }
  return { width: wantedWidth, height: wantedHeight, channels, data: out };
}

/**
 * Where the middle begins; negative where a border comes before the image.
 * @param {number} size @param {number} wanted @param {string} how
 */
function margin(size, wanted, how) {
  const floor = how === "center_floor";
  if (size < wanted) return -(floor ? Math.ceil((wanted - size) / 2) : Math.floor((wanted - size) / 2));
  return floor ? Math.floor((size - wanted) / 2) : halfToEven((size - wanted) / 2);
}

/** Python's `round`. @param {number} x */
function halfToEven(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

/** Red and blue exchanged. @param {Uint8Array} data */
function swapped(data) {
  return data.map((_, i) => data[i - (i % 3) + 2 - (i % 3)]);
}
