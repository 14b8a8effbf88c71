/**
 * The picture of all logits: a square for each, the larger the stronger; one that differs from the server's is red.
 */

import { counted, number } from "./format.js";

const LARGEST_CELL = 24;

/**
 * @param {HTMLCanvasElement} canvas @param {ArrayLike<number>} values
 * @param {boolean[] | null} matches which are the server's; null where that is not known
 */
export function draw(canvas, values, matches) {
  const columns = Math.min(values.length, values.length > 200 ? 50 : 25);
  const cell = Math.min(canvas.clientWidth / columns, LARGEST_CELL);
  const side = cell - (cell > 6 ? 1.5 : 0.8);
  const context = sized(canvas, Math.ceil(values.length / columns) * cell);
  const style = getComputedStyle(document.body);
  const [low, high, bad] = ["--cell-low", "--cell-high", "--bad"].map((name) => style.getPropertyValue(name).trim());
  const [least, most] = range(values);
  for (let i = 0; i < values.length; i++) {
    const [x, y] = [(i % columns) * cell, Math.floor(i / columns) * cell];
    const wrong = matches !== null && !matches[i];
    context.globalAlpha = 1;
    context.fillStyle = wrong ? bad : low;
    context.fillRect(x, y, side, side);
    if (wrong || most === least) continue;
    context.globalAlpha = ((values[i] - least) / (most - least)) ** 2;
    context.fillStyle = high;
    context.fillRect(x, y, side, side);
  }
  canvas.setAttribute("aria-label", described(values.length, matches));
}

/**
 * The canvas in the pixels of the screen, as wide as the page has it.
 * @param {HTMLCanvasElement} canvas @param {number} height
 */
function sized(canvas, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.scale(ratio, ratio);
  return context;
}

/** @param {ArrayLike<number>} values */
function range(values) {
  let [least, most] = [Infinity, -Infinity];
  for (let i = 0; i < values.length; i++) [least, most] = [Math.min(least, values[i]), Math.max(most, values[i])];
  return [least, most];
}

/** @param {number} count @param {boolean[] | null} matches */
function described(count, matches) {
  const text = `A square for each of ${counted(count, "logit")}, the larger the stronger`;
  if (matches === null) return text;
  const wrong = matches.filter((match) => !match).length;
  return `${text}: ${wrong ? number(wrong) : "none"} differ from the server’s`;
}
