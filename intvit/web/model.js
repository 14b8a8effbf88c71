/**
 * The exported model in onnxruntime-web, and the comparison of its outputs with the server's.
 */

/** @typedef {{shape: number[], scale: number}} OutputFacts one image's shape, and what a unit stands for */
/**
 * @typedef {{name: string, digest: string, profile: string, by: string, bytes: number, labels: string[] | null,
 *   input: {shape: [number, number, number], scale: number[], offset: number[]}, outputs: OutputFacts[],
 *   preprocessing: object | null, data: {path: string, url: string}[]}} Facts of `model.json`; shape is C, H, W
 */
/**
 * @typedef {{integer: boolean, shape: number[], values: ArrayLike<number>}} Output shape begins with the batch
 */
/** @typedef {{same: number, of: number}} Likeliest how many of so many first classes are the same, from the first on */
/**
 * @typedef {{exact: boolean, total: number, equal: number, largest: number, likeliest: Likeliest | null,
 *   matches: boolean[], seconds: number, by: string}} Comparison `largest` difference, in units of the output;
 *   `likeliest` is null where the first output is not one score per class
 */

const RUNTIME = new URL("runtime/", import.meta.url).href;
const MOST_THREADS = 8;
/** How many of the likeliest classes are compared, and shown. */
const TOP = 5;

export class BrowserModel {
  /** @param {Facts} facts @param {any} runtime @param {any} session @param {number} threads */
  constructor(facts, runtime, session, threads) {
    this.facts = facts;
    this.runtime = runtime;
    this.session = session;
    this.threads = threads;
    this.version = runtime.env.versions.web;
    const [input] = session.inputMetadata;
    this.floatInput = input.type === "float32";
    const batch = input.shape[0];
    this.batch = Number.isInteger(batch) && batch > 0 && batch < 2 ** 31 ? batch : null; // null: any
    this.integer = session.outputMetadata.every((/** @type {any} */ output) => !output.type.startsWith("float"));
  }

  /**
   * @param {Facts} facts
   * @param {(done: number, total: number) => void} progress bytes so far
   * @param {{threads: number | null, anyBatch: boolean}} options threads: by default one per core, up to eight;
   *   anyBatch: keep the number of images free, for which ONNX Runtime plans its memory several times as long
   */
  static async load(facts, progress, { threads, anyBatch }) {
    const runtime = await importRuntime();
    const available = crossOriginIsolated ? (threads ?? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS)) : 1;
    runtime.env.logLevel = "error";
    runtime.env.wasm.numThreads = available;
    runtime.env.wasm.wasmPaths = RUNTIME;
    runtime.env.wasm.proxy = true; // in a worker, so that the page stays alive while the model runs
    const files = [{ path: "model.onnx", url: "model.onnx" }, ...facts.data];
    let done = 0;
    const fetched = [];
    for (const { path, url } of files) {
      const data = await download(url, (bytes) => progress((done += bytes), facts.bytes));
      fetched.push({ path, data });
    }
    const [model, ...externalData] = fetched;
    const freeDimensionOverrides = anyBatch ? {} : { batch: 1 };
    const options = {
      executionProviders: ["wasm"],
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
      externalData,
      freeDimensionOverrides,
    };
    try {
      const session = await runtime.InferenceSession.create(model.data, options);
      return new BrowserModel(facts, runtime, session, available);
    } catch (error) {
      throw new Error(`ONNX Runtime cannot load this model: ${reason(error)}`);
    }
  }

  /**
   * The outputs of whole images.
   * @param {Uint8Array} pixels images · height · width · channels
   * @returns {Promise<{outputs: Output[], seconds: number}>} seconds of the runs alone
   */
  async classify(pixels) {
    const [channels, height, width] = this.facts.input.shape;
    const size = channels * height * width;
    const count = pixels.length / size;
    if (!Number.isInteger(count) || count === 0) {
      throw new Error(
        `${pixels.length} bytes are not a whole number of ${width} × ${height} images with ${channels} channels.`,
      );
    }
    const batch = this.batch ?? count;
    /** @type {any[][]} */
    const parts = [];
    let seconds = 0;
    for (let first = 0; first < count; first += batch) {
      const images = new Uint8Array(batch * size); // a batch that is not full ends in black images
      images.set(pixels.subarray(first * size, (first + batch) * size));
      const feeds = { [this.session.inputNames[0]]: this.tensor(images, batch) };
      const start = performance.now();
      const results = await this.session.run(feeds);
      seconds += (performance.now() - start) / 1000;
      parts.push(this.session.outputNames.map((/** @type {string} */ name) => results[name]));
    }
    return {
      outputs: this.facts.outputs.map((_, i) =>
        joined(
          parts.map((part) => part[i]),
          count,
        ),
      ),
      seconds,
    };
  }

  /** The model's input for a batch of pixels. @param {Uint8Array} pixels @param {number} batch */
  tensor(pixels, batch) {
    const { shape, scale, offset } = this.facts.input;
    const [channels, height, width] = shape;
    if (!this.floatInput) return new this.runtime.Tensor("uint8", pixels, [batch, height, width, channels]);
    const plane = height * width;
    const values = new Float32Array(pixels.length);
    for (let i = 0; i < pixels.length; i++) {
      const c = i % channels;
      const position = Math.floor(i / channels);
      const image = Math.floor(position / plane);
      values[(image * channels + c) * plane + (position % plane)] = pixels[i] * scale[c] + offset[c];
    }
    return new this.runtime.Tensor("float32", values, [batch, channels, height, width]);
  }

  /**
   * What the server computes for the same pixels, beside `outputs`.
   * @param {Uint8Array} pixels @param {Output[]} outputs @returns {Promise<Comparison>}
   */
  async compare(pixels, outputs) {
    const url = this.integer ? "logits" : "logits?as=float32";
    const answer = await fetch(url, { method: "POST", body: new Blob([new Uint8Array(pixels)]) }).catch((error) => {
      throw new Error(`The server does not answer (${reason(error)}).`);
    });
    if (!answer.ok) throw new Error(`The server refused: ${(await answer.text()).trim()}`);
    const { outputs: theirs, seconds, by } = await answer.json();
    return { ...difference(outputs, theirs, this.integer), seconds, by };
  }
}

/**
 * @param {Output[]} ours @param {{shape: number[], values: number[]}[]} theirs @param {boolean} exact
 * @returns {Omit<Comparison, "seconds" | "by">}
 */
export function difference(ours, theirs, exact) {
  const same =
    ours.length === theirs.length && ours.every((output, i) => String(output.shape) === String(theirs[i].shape));
  if (!same) {
    const shapes = (/** @type {{shape: number[]}[]} */ list) =>
      list.map((output) => `[${output.shape.join(", ")}]`).join(", ");
    throw new Error(`The outputs have other shapes than the server's: ${shapes(ours)}, ${shapes(theirs)}.`);
  }
  /** @type {boolean[]} */
  const matches = [];
  let largest = 0;
  ours.forEach(({ values }, i) => {
    for (let j = 0; j < values.length; j++) {
      const apart = Math.abs(values[j] - theirs[i].values[j]);
      largest = Math.max(largest, apart);
      matches.push(apart === 0); // NaN matches nothing
    }
  });
  const equal = matches.filter(Boolean).length;
  return { exact, total: matches.length, equal, largest, likeliest: sameLikeliest(ours[0], theirs[0]), matches };
}

/**
 * Of all images the one with the fewest classes in common counts.
 * @param {{shape: number[], values: ArrayLike<number>}} ours @param {{values: ArrayLike<number>}} theirs
 * @returns {Likeliest | null}
 */
function sameLikeliest({ shape, values }, theirs) {
  if (shape.length !== 2) return null;
  const [count, classes] = shape;
  let same = Math.min(TOP, classes);
  for (let first = 0; first < count * classes; first += classes) {
    const row = (/** @type {ArrayLike<number>} */ all) => likeliest(Array.from(all).slice(first, first + classes));
    const [here, there] = [row(values), row(theirs.values)];
    while (same > 0 && here.slice(0, same).some((index, i) => index !== there[i])) same--;
  }
  return { same, of: Math.min(TOP, classes) };
}

/** The classes of the largest values, the largest first. @param {number[]} values */
export function likeliest(values) {
  return [...values.keys()].sort((a, b) => values[b] - values[a] || a - b).slice(0, TOP);
}

/**
 * One output of several runs, without the images that filled the last batch.
 * @param {any[]} tensors @param {number} count @returns {Output}
 */
function joined(tensors, count) {
  const [{ dims, type }] = tensors;
  const shape = [count, ...dims.slice(1)];
  const length = shape.reduce((product, side) => product * side, 1);
  const all = tensors.flatMap((tensor) => Array.from(tensor.data, Number));
  return { integer: !type.startsWith("float"), shape, values: all.slice(0, length) };
}

async function importRuntime() {
  if (typeof WebAssembly !== "object")
    throw new Error("This browser has no WebAssembly, in which the model would run.");
  try {
    return await import(`${RUNTIME}ort.wasm.min.mjs`);
  } catch (error) {
    throw new Error(`onnxruntime-web cannot be loaded: ${reason(error)}`);
  }
}

/**
 * A whole file, with its progress.
 * @param {string} url @param {(bytes: number) => void} progress @returns {Promise<Uint8Array>}
 */
async function download(url, progress) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} is missing: ${(await answer.text()).trim() || answer.statusText}`);
  const pieces = [];
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body).getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    progress(piece.value.length);
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** @param {unknown} error */
export function reason(error) {
  return error instanceof Error ? error.message : String(error);
}
