/** Numbers and comparisons as text. */

/** @param {number} value @param {number} digits */
export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: "min2" });
/** @param {number} seconds */
export const duration = (seconds) =>
  seconds < 1 ? `${number(seconds * 1000, seconds < 0.1 ? 1 : 0)} ms` : `${number(seconds, 2)} s`;
/** @param {number} count @param {string} noun */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** @param {import("./model.js").Likeliest} likeliest */
export function inCommon({ same, of }) {
  if (same === of && of > 1) return `The ${of} likeliest classes are the same.`;
  const others = of > 1 ? ` Of the ${of} likeliest, others differ.` : "";
  return same ? `The likeliest class is the same.${others}` : "The likeliest class is another.";
}
