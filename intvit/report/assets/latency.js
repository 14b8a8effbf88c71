/* Where the time of a call goes. */

function latencySection(data) {
  const found = data.latency;
  if (!found) return [note("Give the compiled module with --module m.so to see the time of each of its kernels here.")];
  const rows = found.steps.map((step, x) => ({ ...step, x, y: 1e3 * step.seconds, kind: "" }));
  const chart = new Chart(rows, {
    title: "Time of every kernel, in the order in which they run",
    style: "bars",
    yBase: 0,
    xLabel: "Kernel, in the order of a run",
    yLabel: "Time (ms)",
    bands: blockBands(rows),
    xTicks: (low, high, room) => layerTicks(rows, low, high, room, 0.5),
    say: (row) => [pathOf(row), row.name, `${milliseconds(row.seconds)}, ${percent(row.seconds / found.seconds, 1)} of the run`],
  });
  const most = found.kernels[0]?.seconds ?? 0;
  const columns = [
    { title: "Kernel", value: (row) => element("span", { class: "layer" }, row.layer || "(model)", element("small", {}, row.name)), sort: (row) => row.layer, first: "up" },
    { title: "Calls", numeric: true, wide: true, value: (row) => String(row.calls), sort: (row) => row.calls },
    { title: "10\u2079 multiply-adds/s", numeric: true, wide: true, value: (row) => (row.multiply_adds ? number(row.rate / 1e9) : "\u2013"), sort: (row) => row.rate },
    { title: "Time", numeric: true, value: (row) => barCell(milliseconds(row.seconds), row.seconds, most), sort: (row) => row.seconds },
    { title: "Share", numeric: true, value: (row) => percent(row.share, 1), sort: (row) => row.share },
  ];
  const threads = found.threads === null ? "" : `, ${plural(found.threads, "thread")}`;
  return [
    element("p", { class: "verdict" }, `One image takes ${milliseconds(found.seconds)} in ${plural(found.steps.length, "kernel")}, compiled for ${found.target}${threads}${found.where ? `, on ${found.where}` : ""}.`),
    chart.node,
    note("Times of each kernel, run on its own again and again."),
    element("h3", {}, "By kernel"),
    new Table(found.kernels, columns, { caption: "Kernels by time", limit: 12, unit: "kernel" }).node,
  ];
}
