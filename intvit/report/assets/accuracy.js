/* Accuracy and agreement with their intervals. */

function accuracySection(data) {
  const { accuracy, cosines } = data;
  const { images, top1, float_top1: exact1, agreement, cosine, paired_top1: paired } = accuracy;
  const cards = [
    agreement && card("Agreement with float", percent(agreement.value), spread(agreement, percent)),
    top1 && card("Top-1, integers", percent(top1.value), exact1 ? `float ${percent(exact1.value)}` : spread(top1, percent)),
    paired && card("Top-1, difference", points(paired.difference.value), `${spread(paired.difference, points)} points`),
    cosine && card("Mean cosine of the outputs", cosine.value.toFixed(5), spread(cosine, (value) => value.toFixed(5))),
  ].filter(Boolean);
  if (!cards.length) {
    return [note("Neither labels nor a float model were given: add --labels CSV, --against MODEL --weights FILE, or both.")];
  }
  return [
    element("div", { class: "cards" }, ...cards),
    ...verdicts(accuracy),
    intervals(accuracy),
    cosines.length > 8 ? cosineChart(cosines) : null,
    note(
      `From ${plural(images, "image")}. Ranges are 95 % confidence intervals: Wilson\u2019s for shares; the paired bootstrap ` +
        "for differences and for the mean cosine, in which images are drawn with replacement, each with both of its results." +
        (degenerate(accuracy) ? " Where no image tells the models apart, drawing again cannot either: the range is one point." : ""),
    ),
  ].filter(Boolean);
}

/** Whether a difference has an interval of one point. */
function degenerate({ paired_top1: one, paired_top5: five }) {
  return [one, five].some((paired) => paired && paired.wins + paired.losses === 0);
}

function card(title, value, below) {
  return element("div", { class: "card" }, element("p", { class: "title" }, title), element("p", { class: "value" }, value), element("p", { class: "below" }, below));
}

function spread(interval, text) {
  return `${text(interval.low).replace(" %", "")} to ${text(interval.high)}`;
}

/** What the comparison on the same images says, in words. */
function verdicts({ images, paired_top1: paired, agreement }) {
  if (!paired) return [];
  const { wins, losses, p_value: p, difference } = paired;
  const apart = Math.round(images * (1 - agreement.value));
  const first =
    `The two models predict different classes for ${apart} of ${plural(images, "image")}. Of all images the integer model ` +
    `alone is right on ${wins}, the float model alone on ${losses}: top-1 differs by ${points(difference.value)} points.`;
  const test =
    wins + losses === 0
      ? "No image tells the two apart, so there is nothing to test."
      : `McNemar\u2019s exact test gives p = ${number(p, 2)}: ` +
        (p < 0.05 ? "the difference is more than chance." : "such a difference can well be chance.");
  return [element("p", { class: "verdict" }, `${first} ${test}`)];
}

/** Every figure on a common axis: shares above, differences below. */
function intervals(accuracy) {
  const share = (name, interval) => interval && { name, interval, text: percent };
  const change = (name, paired) => paired && { name, interval: paired.difference, text: points };
  const shares = [
    share("Top-1, float", accuracy.float_top1),
    share("Top-1, integers", accuracy.top1),
    share("Top-5, float", accuracy.float_top5),
    share("Top-5, integers", accuracy.top5),
    share("Agreement", accuracy.agreement),
  ].filter(Boolean);
  const changes = [
    change("Top-1, integers less float", accuracy.paired_top1),
    change("Top-5, integers less float", accuracy.paired_top5),
  ].filter(Boolean);
  const groups = [];
  if (shares.length) groups.push(intervalGroup("Percent of the images", shares, false));
  if (changes.length) groups.push(intervalGroup("Percentage points, on the same images", changes, true));
  return element("div", { class: "intervals" }, ...groups);
}

function intervalGroup(title, rows, centred) {
  const ends = rows.flatMap(({ interval }) => [100 * interval.low, 100 * interval.high]);
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const reach = Math.max(Math.abs(least), Math.abs(most), 0.5) * 1.1;
  const room = Math.max((most - least) * 0.05, 0.5);
  const [low, high] = centred ? [-reach, reach] : [Math.max(0, least - room), Math.min(100, most + room)];
  const at = mapping(low, high, 0, 100);
  const marks = ticks(low, high, 5);
  const text = tickText(marks);
  const lines = rows.map(({ name, interval, text: say }) => {
    const bar = element("i", { class: "reach" });
    bar.style.left = `${at(100 * interval.low)}%`;
    bar.style.width = `${at(100 * interval.high) - at(100 * interval.low)}%`;
    const dot = element("i", { class: "dot" });
    dot.style.left = `${at(100 * interval.value)}%`;
    const zero = centred ? [element("i", { class: "zero" })] : [];
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      element("td", { class: "numeric strong" }, say(interval.value)),
      element("td", { class: "numeric" }, spread(interval, say)),
      element("td", { class: "plotted", "aria-hidden": "true" }, element("div", { class: "lane" }, ...zero, bar, dot)),
    );
  });
  const axis = marks.map((mark) => {
    const made = element("span", {}, text(mark));
    made.style.left = `${at(mark)}%`;
    return made;
  });
  return element(
    "table",
    { class: "interval" },
    element("caption", {}, title),
    element("thead", { class: "hidden" }, element("tr", {}, ...["", "value", "95 % interval", ""].map((t) => element("th", {}, t)))),
    element("tbody", {}, ...lines),
    element("tfoot", { "aria-hidden": "true" }, element("tr", {}, element("td", { colspan: 3 }), element("td", { class: "plotted" }, element("div", { class: "axis" }, ...axis)))),
  );
}

function cosineChart(cosines) {
  const chart = new Chart(
    cosines.map(([share, cosine]) => ({ x: 100 * share, y: cosine, kind: "" })),
    {
      title: "Cosine of the outputs with float\u2019s, the worst image first",
      style: "line",
      xLabel: "Images, worst first (%)",
      yLabel: "Cosine",
      xTicks: (low, high, room) => {
        const marks = ticks(low, high, room / 90);
        const text = tickText(marks);
        return marks.map((mark) => [mark, text(mark)]);
      },
      say: ({ x, y }) => [`cosine ${y.toFixed(5)}`, `${minus(x.toFixed(1))} % of the images are worse`],
    },
  );
  return element("div", {}, element("h3", {}, "Cosine of every image, worst first"), chart.node);
}
