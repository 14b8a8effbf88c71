/* Every tensor of the integer graph: a table to find it by, and the histogram of the chosen one. */

const LIMITS = { uint8: [0, 255], int8: [-128, 127], int16: [-32768, 32767], int32: [-2147483648, 2147483647] };

class Tensors {
  constructor(data) {
    this.rows = data.tensors;
    this.images = data.tensorImages;
    this.snr = new Map(data.layers.map((row) => [row.node, row.snr]));
    this.detail = element("div", { class: "detail", "aria-live": "polite" });
    this.logarithmic = true;
    const narrow = this.rows.filter((row) => row.dtype !== "int32");
    this.select(narrow.reduce((a, b) => (ends(b) > ends(a) ? b : a), narrow[0] ?? this.rows[0]));
  }

  section() {
    const search = element("input", { type: "search", id: "search", placeholder: "blocks.3 linear int8", autocomplete: "off" });
    search.addEventListener("input", () => this.filter(search.value));
    this.search = search;
    this.table = new Table(this.rows, this.columns(), { caption: "All tensors of the integer graph", limit: 12, unit: "tensor" });
    return [
      note(
        `Integers of ${plural(this.images, "image")}. At an end: the share that lies at the smallest or largest value of its type, ` +
          "so at most that much is cut off there. Range used: from the smallest to the largest integer that came up.",
      ),
      this.detail,
      element("p", { class: "search" }, element("label", { for: "search" }, "Find a tensor"), search),
      this.table.node,
    ];
  }

  columns() {
    return [
      { title: "Tensor", value: (row) => this.chooser(row), sort: (row) => this.rows.indexOf(row), first: "up" },
      { title: "Integers", wide: true, value: (row) => sparkline(row.histogram) },
      { title: "Scale", wide: true, numeric: true, value: (row) => (row.scale ? shortScale(row) : "\u2013"), sort: (row) => row.scale?.[1] ?? 0 },
      { title: "Range used", numeric: true, value: (row) => percent(row.used, 1), sort: (row) => row.used, first: "up" },
      { title: "At an end", numeric: true, value: (row) => percent(ends(row)), sort: ends },
      { title: "SNR", numeric: true, wide: true, value: (row) => (this.snr.has(row.node) ? decibels(this.snr.get(row.node)) : "\u2013"), sort: (row) => this.snr.get(row.node) ?? 999, first: "up" },
    ];
  }

  chooser(row) {
    const made = element("button", { type: "button", class: "link" }, layerCell(row));
    made.addEventListener("click", () => this.show(row.node));
    return made;
  }

  /** Words that all have to come up in a tensor's path, operation, type or name. */
  filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const said = (row) => `${row.path} ${row.operation} ${row.dtype} ${row.node}`.toLowerCase();
    this.table.show(this.rows.filter((row) => words.every((word) => said(row).includes(word))));
  }

  /** Shows a tensor by the name of its node, and brings it into view. */
  show(node) {
    const row = this.rows.find((each) => each.node === node);
    if (!row) return;
    this.select(row);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.detail.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
  }

  select(row) {
    this.row = row;
    const { histogram: h } = row;
    const [least, most] = LIMITS[row.dtype];
    const facts = [
      ["Type", `${row.dtype}, ${row.shape.map(integer).join(" \u00d7 ")} per image`],
      ["Scale", row.scale ? scaleOf(row.scale, row.channels) : "inside the layer: not stored"],
      ["Came up", `${integer(h.low)} to ${integer(h.high)} of ${integer(least)} to ${integer(most)}`],
      ["At the lower end", percent(row.at_low)],
      ["At the upper end", percent(row.at_high)],
      ["Entropy", h.shift ? `${h.entropy.toFixed(2)} bits over bins of ${integer(2 ** h.shift)}` : `${h.entropy.toFixed(2)} bits`],
    ];
    const toggle = element("input", { type: "checkbox", id: "logarithmic", checked: this.logarithmic });
    toggle.addEventListener("change", () => {
      this.logarithmic = toggle.checked;
      this.chart.options = { ...this.chart.options, ...this.scaled() };
      this.chart.draw();
    });
    this.chart = this.histogram(row);
    this.detail.replaceChildren(
      element("h3", {}, pathOf(row), " ", element("small", {}, `${words(row.operation)} (${row.node})`)),
      element("dl", { class: "pairs" }, ...facts.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value)))),
      this.chart.node,
      element("p", { class: "toggle" }, toggle, element("label", { for: "logarithmic" }, "Logarithmic counts")),
    );
  }

  scaled() {
    return this.logarithmic ? { logarithmic: true, yBase: 0.5 } : { logarithmic: false, yBase: 0 };
  }

  histogram(row) {
    const { shift, counts } = row.histogram;
    const width = 2 ** shift;
    const total = counts.reduce((a, b) => a + b, 0);
    const [least, most] = LIMITS[row.dtype];
    const bars = wholeType(row.histogram, least, most).map(([x, count]) => ({ x, y: count, kind: "" }));
    return new Chart(bars, {
      title: `Integers of ${pathOf(row)}, ${words(row.operation)}`,
      style: "bars",
      width,
      xLabel: width > 1 ? `Integer, in bins of ${integer(width)}` : "Integer",
      yLabel: "Count",
      ...this.scaled(),
      lines: [
        [least, `least ${row.dtype}`],
        [most + 1, `largest ${row.dtype}`],
      ].filter(([at]) => at >= bars[0].x && at <= bars[bars.length - 1].x + width),
      xTicks: (low, high, room) => ticks(low, high, room / 80).filter(Number.isInteger).map((at) => [at + (shift ? 0 : 0.5), integer(at)]),
      say: ({ x, y }) => [width > 1 ? `${integer(x)} to ${integer(x + width - 1)}` : integer(x), `${integer(y)} of ${integer(total)}`, percent(y / total, 3)],
    });
  }
}

/** [first integer of the bin, count] each; of 8-bit types with the integers that did not come up. */
function wholeType({ shift, first, counts }, least, most) {
  const [from, to] = most - least < 256 ? [least, most] : [first, first + counts.length - 1];
  return Array.from({ length: to - from + 1 }, (_, i) => [(from + i) * 2 ** shift, counts[from + i - first] ?? 0]);
}

function ends(row) {
  return row.at_low + row.at_high;
}

function shortScale(row) {
  const [low, high] = row.scale.map((value) => number(value, 2));
  return row.channels > 1 && low !== high ? `${low} to ${high}` : low;
}

/** The histogram as a small picture: heights by the square root, so that tails can be seen. */
function sparkline({ counts }) {
  const columns = 48;
  const sums = new Array(Math.min(columns, counts.length)).fill(0);
  counts.forEach((count, i) => (sums[Math.floor((i * sums.length) / counts.length)] += count));
  const most = Math.max(...sums);
  const d = sums.map((sum, i) => `M${i + 0.5},20V${(20 - 19 * Math.sqrt(sum / most)).toFixed(1)}`).join("");
  return shape("svg", { class: "spark", viewBox: `0 0 ${sums.length} 20`, preserveAspectRatio: "none", "aria-hidden": "true" }, shape("path", { d }));
}
