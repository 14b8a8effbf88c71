/**
 * The page: an image goes in, its classes, times and the comparison with the server come out.
 *
 * | file            | what                                                            |
 * |-----------------|-----------------------------------------------------------------|
 * | `model.js`      | the model in onnxruntime-web; comparison with the server        |
 * | `preprocess.js` | from an image to the model's pixels                             |
 * | `resample.js`   | Pillow's resizing                                               |
 * | `logits.js`     | the picture of all logits                                       |
 * | `samples.js`    | pictures drawn here                                             |
 * | `format.js`     | numbers and comparisons as text                                 |
 *
 * `window.intvit` offers what the page itself uses: `ready` (a promise of the model), `classify`, `compare`, `pixels`.
 */

import { counted, duration, inCommon, number } from "./format.js";
import { draw } from "./logits.js";
import { BrowserModel, likeliest, reason } from "./model.js";
import { coverage, preprocess } from "./preprocess.js";
import { SAMPLES, drawn } from "./samples.js";

const RUNS = 7;
const RUN_SECONDS = 4;
const MOST_CELLS = 4096;

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
/** An element with text. @param {string} tag @param {string} className @param {string} text */
function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** @type {BrowserModel} */
let model;
/** The number of the image that is shown: what an earlier one still computes is dropped. */
let current = 0;
/**
 * @type {{values: ArrayLike<number>, matches: boolean[] | null} | null} what the picture of the logits shows
 */
let pictured = null;

// --- Loading -------------------------------------------------------------------------------------------------------

async function start() {
  const started = performance.now();
  const answer = await fetch("model.json");
  if (!answer.ok) throw new Error(`The server has no model: ${answer.status} ${answer.statusText}.`);
  const facts = await answer.json();
  describe(facts);
  model = await BrowserModel.load(facts, loadingProgress, wanted());
  await model.classify(
    new Uint8Array(facts.input.shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b)),
  );
  describeRuntime((performance.now() - started) / 1000);
  return model;
}

/** From the page's address: `?threads=N`, and `?batch=any` for several images in a run. */
function wanted() {
  const address = new URLSearchParams(location.search);
  const threads = Number.parseInt(address.get("threads") ?? "", 10);
  return { threads: threads > 0 ? threads : null, anyBatch: address.get("batch") === "any" };
}

/** @param {number} done @param {number} total */
function loadingProgress(done, total) {
  $("progress").value = total ? done / total : 0;
  const megabytes = (/** @type {number} */ bytes) => number(bytes / 1e6, 1);
  $("loading-text").textContent =
    done < total ? `Loading the model, ${megabytes(done)} of ${megabytes(total)} MB` : "Preparing the model";
}

/** What the model's file says of it. @param {import("./model.js").Facts} facts */
function describe(facts) {
  document.title = `${facts.name} · intvit`;
  $("name").replaceChildren(
    ...facts.name.split(/(?<=[_:/.-])/).flatMap((part) => [part, document.createElement("wbr")]),
  );
  $("facts").append(
    element("li", "", facts.profile === "integer" ? "integers only" : `profile ${facts.profile}`),
    element("li", "", `${number(facts.bytes / 1e6, 1)} MB`),
    element("li", "", `${facts.input.shape[2]} × ${facts.input.shape[1]} pixels`),
  );
  if (facts.profile !== "integer") {
    $("lead").textContent =
      "A quantized Vision Transformer, here in your browser. This profile computes in floats between its integers, so " +
      "another machine’s may differ a little: the comparison with the server says by how much.";
  }
  $("digest").textContent = `Digest ${facts.digest}`;
  $("preprocessing").textContent = facts.preprocessing
    ? "Resized and cropped here, by the model’s own preprocessing. A browser may decode a file a little differently " +
      "than Pillow does; the server gets the pixels that are shown."
    : "This model stores no preprocessing: it gets the largest middle part of the image.";
}

/** @param {number} seconds until the model was ready */
function describeRuntime(seconds) {
  $("facts").append(
    element("li", "", `ONNX Runtime Web ${model.version}`),
    element("li", "", `WebAssembly, ${counted(model.threads, "thread")}`),
    element("li", "", `ready in ${duration(seconds)}`),
  );
  $("about").textContent = crossOriginIsolated
    ? "Of an image only the pixels that the model reads leave this page: they go to its own server, for the comparison."
    : "This page is not isolated (COOP and COEP headers over HTTPS or localhost), so the model runs on one thread.";
  $("loading").hidden = true;
  $("file").disabled = false;
  for (const button of $("samples").children) button.disabled = false;
  document.body.classList.add("ready");
}

// --- An image ------------------------------------------------------------------------------------------------------

/**
 * The model's pixels for an image file or a canvas.
 * @param {Blob | HTMLCanvasElement} source @returns {Promise<Uint8Array>}
 */
async function pixelsOf(source) {
  const { facts } = await ready;
  const [channels, height, width] = facts.input.shape;
  const how = facts.preprocessing ?? coverage([height, width], channels);
  return preprocess(await decoded(source), /** @type {any} */ (how));
}

/** @param {Blob | HTMLCanvasElement} source */
async function decoded(source) {
  if (source instanceof HTMLCanvasElement) return source;
  try {
    return await createImageBitmap(source, { colorSpaceConversion: "none" }); // as Pillow: no colour management
  } catch {
    const name = source instanceof File ? source.name : "This file";
    throw new Error(`${name} is not an image that this browser can read. Choose a JPEG, PNG or WebP file.`);
  }
}

/**
 * Everything that happens to a chosen image.
 * @param {Blob | HTMLCanvasElement} source @param {string} name
 */
async function show(source, name) {
  const mine = ++current;
  document.body.dataset.state = "working";
  $("error").hidden = true;
  try {
    await ready;
    const pixels = await pixelsOf(source);
    if (mine !== current) return;
    showPixels(pixels, name);
    const { outputs, seconds } = await model.classify(pixels);
    if (mine !== current) return;
    $("empty").hidden = true;
    $("result").hidden = false;
    showTop(outputs[0]);
    showVerdict("waiting", "Asking the server", "It computes the logits of the same pixels.");
    pictured = { values: outputs[0].values, matches: null };
    drawLogits();
    showTimes([seconds], null);
    const compared = await model.compare(pixels, outputs).catch(reason);
    if (mine !== current) return;
    showComparison(compared, outputs[0]);
    await time(pixels, seconds, typeof compared === "string" ? null : compared.seconds, () => mine === current);
  } catch (error) {
    if (mine === current) fail(reason(error));
  } finally {
    if (mine === current) document.body.dataset.state = "done";
  }
}

/** What the model sees. @param {Uint8Array} pixels @param {string} name */
function showPixels(pixels, name) {
  const [channels, height, width] = model.facts.input.shape;
  const view = $("view");
  view.width = width;
  view.height = height;
  const image = new ImageData(width, height);
  const bgr = /** @type {any} */ (model.facts.preprocessing)?.order === "bgr";
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (channels === 1 ? 0 : bgr ? 2 - c : c)];
    image.data[4 * i + 3] = 255;
  }
  view.getContext("2d").putImageData(image, 0, 0);
  view.setAttribute("aria-label", `${name}, as the model sees it`);
  view.hidden = false;
  $("drop").classList.add("filled");
}

/**
 * Runs the model a few more times.
 * @param {Uint8Array} pixels @param {number} first @param {number | null} server @param {() => boolean} wanted
 */
async function time(pixels, first, server, wanted) {
  const all = [first];
  let total = 0;
  while (all.length <= RUNS && total < RUN_SECONDS) {
    const { seconds } = await model.classify(pixels);
    if (!wanted()) return;
    total += seconds;
    all.push(seconds);
    showTimes(all, server);
  }
}

// --- Results -------------------------------------------------------------------------------------------------------

/** @param {import("./model.js").Output} output */
function showTop({ integer, shape, values }) {
  const list = $("top");
  if (shape.length !== 2) {
    const note = element(
      "li",
      "note",
      `The output is [${shape.slice(1).join(", ")}] for an image, not one score per class.`,
    );
    list.replaceChildren(note);
    return;
  }
  const { outputs, labels } = model.facts;
  const probabilities = softmax(Array.from(values, (value) => (integer ? value * outputs[0].scale : value)));
  const order = likeliest(probabilities);
  list.replaceChildren(...order.map((index) => bar(labels?.[index] ?? `class ${index}`, probabilities[index])));
}

/** @param {string} label @param {number} probability */
function bar(label, probability) {
  const [first, ...others] = label.split(", ");
  const item = element("li", "class");
  const text = element("p", "label", first);
  if (others.length) text.append(element("span", "others", others.join(", ")));
  const track = element("div", "track");
  const fill = element("div", "fill");
  fill.style.width = `${100 * probability}%`;
  track.append(fill);
  track.setAttribute("aria-hidden", "true");
  item.append(text, element("p", "share", `${number(100 * probability, 1)} %`), track);
  return item;
}

/** @param {number[]} logits */
function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((value) => Math.exp(value - largest));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / total);
}

const MARKS = {
  good: "M5 12.5l4.5 4.5L19 7.5",
  near: "M5 9.5c4-3.5 6 3.5 14 0M5 15.5c4-3.5 6 3.5 14 0",
  bad: "M7 7l10 10M17 7L7 17",
  waiting: "M12 7v5l3.5 2",
};

/** @param {keyof typeof MARKS} kind @param {string} title @param {string} text */
function showVerdict(kind, title, text) {
  const verdict = $("verdict");
  verdict.dataset.kind = kind;
  verdict.querySelector("path").setAttribute("d", MARKS[kind]);
  $("verdict-title").textContent = title;
  $("verdict-text").textContent = text;
}

/**
 * @param {import("./model.js").Comparison | string} compared or why it could not be
 * @param {import("./model.js").Output} output
 */
function showComparison(compared, output) {
  if (typeof compared === "string") {
    showVerdict("bad", "Not compared", compared);
  } else {
    const { exact, equal, total, by } = compared;
    if (exact) {
      const text =
        equal === total
          ? `Every bit is what ${by} computes on the server.`
          : `The server runs ${by}. They should all be equal.`;
      showVerdict(equal === total ? "good" : "bad", `${number(equal)} of ${number(total)} logits equal`, text);
    } else {
      showNear(compared);
    }
    pictured = { values: output.values, matches: exact ? compared.matches.slice(0, output.values.length) : null };
    drawLogits();
  }
  const best = $("top").firstElementChild?.querySelector(".label")?.firstChild?.textContent;
  const share = $("top").firstElementChild?.querySelector(".share")?.textContent;
  $("summary").textContent = `${best ? `Likeliest: ${best}, ${share}. ` : ""}${$("verdict-title").textContent}.`;
}

/**
 * Outputs in floats, which two machines need not compute alike.
 * @param {import("./model.js").Comparison} compared
 */
function showNear({ largest, likeliest, by }) {
  const kind = Number.isNaN(largest) || likeliest?.same === 0 ? "bad" : "near";
  const text = `Not bit-exact: these outputs are floats. The server runs ${by}.`;
  const title = `Largest difference ${Number(largest.toPrecision(2))}`;
  showVerdict(kind, title, likeliest ? `${text} ${inCommon(likeliest)}` : text);
}

/** @param {number[]} all the first run and those after it @param {number | null} server */
function showTimes(all, server) {
  const [first, ...later] = all;
  const sorted = [...later].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  const rows = [
    ["Median", later.length ? duration(median) : "…", later.length ? `of ${counted(later.length, "run")}` : "running"],
    ["First run", duration(first), "of this image"],
    ["Server", server === null ? "…" : duration(server), "one run"],
  ];
  $("times").replaceChildren(
    ...rows.map(([term, value, remark]) => {
      const row = element("div", "");
      row.append(element("dt", "", term), element("dd", "value", value), element("dd", "note", remark));
      return row;
    }),
  );
}

/** The picture of the logits, again after a change of size or colours. */
function drawLogits() {
  const tooMany = pictured === null || pictured.values.length > MOST_CELLS;
  $("logits").hidden = $("legend").hidden = tooMany;
  if (pictured && !tooMany) draw($("logits"), pictured.values, pictured.matches);
}

/** @param {string} message */
function fail(message) {
  $("error").textContent = message;
  $("error").hidden = false;
}

// --- What a visitor does -------------------------------------------------------------------------------------------

function listen() {
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) show(file, file.name);
    $("file").value = ""; // the same file can be chosen again
  });
  for (const { name, draw } of SAMPLES) $("samples").append(sampleButton(name, draw));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    given(event.dataTransfer);
  });
  document.addEventListener("paste", (event) => given(event.clipboardData));
  new ResizeObserver(drawLogits).observe($("logits").parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawLogits);
}

/** A dropped or pasted file. @param {DataTransfer | null} transfer */
function given(transfer) {
  const file = transfer?.files[0];
  if (file) show(file, file.name);
  else if (transfer?.types.length) fail("That is not a file. Drop an image file.");
}

/** @param {string} name @param {(context: any) => void} draw */
function sampleButton(name, draw) {
  const button = /** @type {HTMLButtonElement} */ (element("button", "sample"));
  Object.assign(button, { type: "button", disabled: true, title: name });
  button.setAttribute("aria-label", `Drawing: ${name}`);
  const canvas = drawn(draw);
  button.append(canvas);
  button.addEventListener("click", () => show(canvas, name));
  return button;
}

listen();
const ready = start();
ready.catch((error) => {
  $("loading").hidden = true;
  fail(reason(error));
});

Object.assign(window, {
  intvit: {
    ready,
    classify: async (/** @type {Uint8Array} */ pixels) => (await ready).classify(pixels),
    compare: async (/** @type {Uint8Array} */ pixels, /** @type {any} */ outputs) =>
      (await ready).compare(pixels, outputs),
    pixels: pixelsOf,
  },
});
