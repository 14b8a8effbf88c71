/* From values to pixels, and where an axis has its ticks. */

/** Round numbers within [low, high], about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** Powers of ten within [low, high], every so many that about `count` are left. */
function decades(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const step = Math.max(1, Math.ceil((last - first + 1) / Math.max(1, count)));
  const found = [];
  for (let power = first; power <= last; power += step) found.push(10 ** power);
  return found;
}

/** Maps [low, high] to [from, to], by logarithms where asked. */
function mapping(low, high, from, to, logarithmic = false) {
  const bend = logarithmic ? (value) => Math.log10(Math.max(value, 1e-300)) : (value) => value;
  const span = bend(high) - bend(low) || 1;
  return (value) => from + ((bend(value) - bend(low)) / span) * (to - from);
}

/** As many decimals as tell the ticks apart. */
function tickText(values) {
  const step = values.length > 1 ? Math.abs(values[1] - values[0]) : Math.abs(values[0]) || 1;
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return (value) => (Math.abs(value) >= 1e5 ? number(value, 2) : minus(value.toFixed(Math.min(decimals, 10))));
}

/** The part of a layer's path that names its block: up to and with its last number. */
function blockOf(path) {
  return (path.match(/^.*\b\d+(?=\.|$)/) ?? [path.split(".")[0]])[0];
}
