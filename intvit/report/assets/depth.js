/* Signal to noise along the depth, and what a change of a layer would bring. */

const EXACT = 100;
/* dB from which a layer counts as exact: its mark stands at the upper end. */

function depthSection(data, chosen) {
  const rows = data.layers;
  if (!rows.length) return [note("This model was made without signal-to-noise ratios: quantize it again.")];
  const kinds = commonKinds(rows);
  const points = rows.map((row, x) => ({ ...row, x, y: row.snr, kind: kinds.includes(row.operation) ? row.operation : "other" }));
  const finite = rows.map((row) => row.snr).filter((snr) => snr < EXACT);
  const chart = new Chart(points, {
    title: "Signal-to-noise ratio of every layer",
    kinds,
    joined: kinds.includes("add") ? "add" : null,
    xLabel: "Layer or block, in the order of the graph",
    yLabel: "Signal to noise (dB)",
    yTop: finite.length ? Math.max(...finite) + 3 : EXACT,
    bands: blockBands(rows),
    xTicks: (low, high, room) => layerTicks(rows, low, high, room),
    say: (row) => [
      pathOf(row),
      `${words(row.operation)}, ${row.dtype}`,
      row.snr >= EXACT ? "exact" : `${decibels(row.snr)}${row.before === null ? "" : `, its input ${decibels(row.before)}`}`,
      `scale ${scaleOf(row.scale, row.channels)}`,
    ],
    chosen: (row) => chosen(row.node),
  });
  const last = rows[rows.length - 1];
  const least = rows.reduce((worst, row) => (row.snr < worst.snr ? row : worst));
  return [
    element(
      "p",
      { class: "verdict" },
      `The last layer, ${pathOf(last)}, has ${decibels(last.snr)}; the noisiest, ${pathOf(least)} ` +
        `(${words(least.operation)}), ${decibels(least.snr)}. 20 dB is noise of a tenth of the signal\u2019s amplitude, 40 dB of a hundredth.`,
    ),
    chart.node,
    note(
      "Against float on the calibration images, each model on its own inputs all along, as stored in the model when it was " +
        "quantized. Points at the upper end are exact or nearly so" +
        (kinds.includes("add") ? "; the line joins the residual sums." : ".") +
        " Drag over a part to zoom in, click a point to see its integers.",
    ),
  ];
}

/** The operations that come up most, at most as many as there are marks; the others share one. */
function commonKinds(rows) {
  const counts = new Map();
  for (const { operation } of rows) counts.set(operation, (counts.get(operation) ?? 0) + 1);
  const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
  return order.length <= FORMS.length ? order : [...order.slice(0, FORMS.length - 1), "other"];
}

/** Where each block of the layers' paths begins: [first index, block], of those with a name. */
function blockStarts(rows) {
  const starts = new Map();
  rows.forEach((row, index) => {
    const block = blockOf(row.path);
    if (block && !starts.has(block)) starts.set(block, index);
  });
  return [...starts].map(([block, index]) => [index, block]);
}

function blockBands(rows) {
  const starts = blockStarts(rows).map(([index]) => index - 0.5);
  const ends = [...starts.slice(1), rows.length - 0.5];
  return starts.map((from, i) => [from, ends[i]]).filter((_, i) => i % 2 === 1);
}

/** Names of the layers where there is room for them, else of the blocks, else the numbers of the blocks. */
function layerTicks(rows, low, high, room, middle = 0) {
  const within = ([index]) => index >= low && index <= high;
  const shown = rows.map((row, index) => [index, pathOf(row).split(".").slice(-2).join(".")]).filter(within);
  const blocks = blockStarts(rows).filter(within);
  const numbers = blocks.filter(([, block]) => /\d/.test(block)).map(([index, block]) => [index, block.match(/\d+/g).join(".")]);
  const place = ([index]) => ((index - low) / (high - low)) * room;
  const kept = (labels) => {
    let free = -Infinity;
    return labels.filter((label) => {
      const half = 3.3 * label[1].length + 5;
      if (place(label) - half < free) return false;
      free = place(label) + half;
      return true;
    });
  };
  const crowded = (labels) => labels.length === 0 || kept(labels).length < 0.8 * labels.length;
  const best = [shown, blocks, numbers].find((labels) => !crowded(labels));
  const labels = best ?? everyNth(numbers.length ? numbers : blocks, room);
  return labels.map(([index, text]) => [index + middle, text]);
}

/** Labels at equal steps, as many as there is room for. */
function everyNth(labels, room) {
  const widest = Math.max(...labels.map(([, text]) => text.length), 1);
  const every = Math.ceil((labels.length * (6.6 * widest + 12)) / room);
  return labels.filter((_, i) => i % every === 0);
}

function sensitivitySection(data, chosen) {
  const parts = [];
  if (data.layers.length) parts.push(addedTable(data.layers, chosen));
  if (data.effects.length) parts.push(effectTable(data.effects, data.effectImages, chosen));
  else parts.push(element("div", {}, element("h3", {}, "Two bits less in one tensor"), note("Not measured: give --sensitivity N with the number of images.")));
  return [element("div", { class: "columns" }, ...parts)];
}

/** Layers by the noise that they add to what they were given. */
function addedTable(layers, chosen) {
  const rows = layers.filter((row) => row.snr < EXACT).sort((a, b) => b.added - a.added);
  const most = rows[0]?.added ?? 0;
  const columns = [
    { title: "Layer", value: (row) => toTensor(row, chosen), sort: (row) => pathOf(row), first: "up" },
    { title: "Input", numeric: true, wide: true, value: (row) => (row.before === null ? "pixels" : decibels(row.before)), sort: (row) => row.before ?? 200 },
    { title: "Result", numeric: true, value: (row) => decibels(row.snr), sort: (row) => row.snr, first: "up" },
    { title: "Noise added", numeric: true, value: (row) => barCell(percent(row.added), row.added, most), sort: (row) => row.added },
  ];
  return element(
    "div",
    {},
    element("h3", {}, "Noise that each layer adds"),
    note(
      "Noise energy as a share of the signal\u2019s, of a layer\u2019s result less that of its noisiest input: its own rounding, and " +
        "what its function makes of the noise that arrives. A negative figure says that it dampens noise.",
    ),
    new Table(rows, columns, { caption: "Layers by the noise that they add", limit: 10, unit: "layer" }).node,
  );
}

/** Tensors by what fewer bits in them alone do to the output. */
function effectTable(effects, images, chosen) {
  const most = effects[0].noise;
  const columns = [
    { title: "Tensor", value: (row) => toTensor(row, chosen), sort: (row) => pathOf(row), first: "up" },
    { title: "Noise in the output", numeric: true, value: (row) => barCell(percent(row.noise, 3), row.noise, most), sort: (row) => row.noise },
  ];
  return element(
    "div",
    {},
    element("h3", {}, "Two bits less in one tensor"),
    note(
      `Measured: the tensor alone is rounded to a grid of two bits less, the rest of the integer graph runs on (${plural(images, "image")}). ` +
        "The noise that this makes in the output, as a share of its energy: at the top more bits or a better grid pay off, at the bottom fewer will do.",
    ),
    new Table(effects, columns, { caption: "Tensors by what two bits less in them do to the output", limit: 10, unit: "tensor" }).node,
  );
}

/** A layer's name that leads to its integers. */
function toTensor(row, chosen) {
  const link = element("button", { type: "button", class: "link", title: "Show its integers" }, layerCell(row));
  link.addEventListener("click", () => chosen(row.node));
  return link;
}
