/* Elements, and numbers as text. */

/** An element with attributes and children; a text is never markup. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** A number with so many significant digits, without an exponent where that can be read. */
function number(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    return `${minus(mantissa)}\u00b710${superscript(exponent)}`;
  }
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return minus(value.toFixed(Math.min(decimals, 8)));
}

/** A share of one as a percentage; one that the decimals do not show is said to be small, not zero. */
function percent(share, decimals = 2) {
  const value = 100 * share;
  if (value !== 0 && Math.abs(value) < 0.5 * 10 ** -decimals) return `${value < 0 ? "> \u2212" : "< "}${(10 ** -decimals).toFixed(decimals)} %`;
  return `${minus(value.toFixed(decimals))} %`;
}

/** A difference of percentages, with its sign. */
function points(difference, decimals = 2) {
  const text = (100 * difference).toFixed(decimals);
  return Number(text) > 0 ? `+${text}` : minus(text.replace(/^-(0\.0+)$/, "$1"));
}

function minus(text) {
  return text.replace("-", "\u2212");
}

function superscript(exponent) {
  const raised = { "-": "\u207b", "+": "" };
  return [...exponent].map((c) => raised[c] ?? "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[c]).join("");
}

function decibels(snr) {
  return snr >= 199 ? "exact" : `${minus(snr.toFixed(1))} dB`;
}

function milliseconds(seconds) {
  return seconds < 1e-3 ? `${number(1e6 * seconds)} \u00b5s` : `${number(1e3 * seconds)} ms`;
}

function integer(value) {
  return minus(String(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function plural(count, one, many = `${one}s`) {
  return `${integer(count)} ${count === 1 ? one : many}`;
}

/** The end points of a grid's scales over its channels. */
function scaleOf(scale, channels) {
  if (!scale) return "not stored";
  const [low, high] = scale.map((value) => number(value));
  if (!(channels > 1)) return low;
  return `${low} to ${high} over ${plural(channels, "channel")}`;
}

function note(...text) {
  return element("p", { class: "note" }, ...text);
}

/** The name of an operation as words. */
function words(name) {
  return name.replaceAll("_", " ");
}

/** A path of a layer; the model itself has none. */
function pathOf(row) {
  return row.path || "(model)";
}
