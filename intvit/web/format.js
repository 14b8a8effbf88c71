/** Numbers as text. */

/** @param {number} value @param {number} digits */
export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: "min2" });
/** @param {number} seconds */
export const duration = (seconds) =>
  seconds < 1 ? `${number(seconds * 1000, seconds < 0.1 ? 1 : 0)} ms` : `${number(seconds, 2)} s`;
/** @param {number} count @param {string} noun */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
