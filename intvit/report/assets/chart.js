/* A chart along one axis that can be zoomed: by dragging, with its buttons, Ctrl and the wheel, or the keyboard. */

const MARKS = {
  circle: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  square: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  triangle: (r) => `M0,${-1.2 * r}L${1.15 * r},${0.9 * r}H${-1.15 * r}z`,
  diamond: (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0z`,
  cross: (r) => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`,
  plus: (r) => `M0,${-1.2 * r}V${1.2 * r}M${-1.2 * r},0H${1.2 * r}`,
};
const FORMS = Object.keys(MARKS);
const DOUBLE_CLICK = 300;
/* Milliseconds in which a second click makes the first one half of a double click. */

/**
 * `data`: { x, y, kind } each, in order of x; bars reach from `x` to `x + width` (1 by default).
 * `options`: title, xLabel, yLabel, style ("points", "bars" or "line"), kinds (names), joined (a kind whose points are
 * joined), xTicks(low, high, room), yTop, yBase, logarithmic, lines (x, text), say(datum), chosen(datum).
 */
class Chart {
  constructor(data, options) {
    this.data = data;
    this.options = { style: "points", kinds: [], lines: [], yBase: null, logarithmic: false, ...options };
    const width = this.options.style === "bars" ? (this.options.width ?? 1) : 0;
    const pad = this.options.style === "points" ? Math.max(0.6, 0.012 * data.length) : 0;
    this.width = width;
    this.full = [data[0].x - pad, data[data.length - 1].x + width + pad];
    this.least = this.options.style === "line" ? (this.full[1] - this.full[0]) / 50 : 4 * (width || 1);
    this.view = [...this.full];
    this.at = null;
    this.hidden = new Set();
    this.build();
  }

  build() {
    const { title, kinds } = this.options;
    this.svg = shape("svg", { class: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart" });
    this.svg.setAttribute("aria-label", `${title}. Arrow keys go from value to value, plus and minus zoom, 0 shows all.`);
    this.tip = element("div", { class: "tip", hidden: true });
    this.status = element("p", { class: "hidden", role: "status", "aria-live": "polite" });
    const button = (text, label, act) => {
      const made = element("button", { type: "button", "aria-label": `${label}: ${title}`, title: label }, text);
      made.addEventListener("click", act);
      return made;
    };
    this.buttons = {
      left: button("\u2039", "Move left", () => this.move(-0.4)),
      right: button("\u203a", "Move right", () => this.move(0.4)),
      out: button("\u2212", "Zoom out", () => this.zoom(2)),
      in: button("+", "Zoom in", () => this.zoom(0.5)),
      all: button("All", "Show all", () => this.show(this.full)),
    };
    const legend = kinds.map((kind, index) => this.legendEntry(kind, index));
    this.node = element(
      "figure",
      { class: "chart" },
      element(
        "div",
        { class: "bar" },
        element("div", { class: "legend", role: "group", "aria-label": "Shown" }, ...legend),
        element("div", { class: "zoom", role: "group", "aria-label": "Zoom" }, ...Object.values(this.buttons)),
      ),
      element("div", { class: "canvas" }, this.svg, this.tip),
      this.status,
    );
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  legendEntry(kind, index) {
    const mark = shape("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true", class: `kind-${index % FORMS.length}` });
    mark.append(shape("path", { d: MARKS[FORMS[index % FORMS.length]](4), class: "mark" }));
    const entry = element("button", { type: "button", "aria-pressed": "true" }, mark, words(kind));
    entry.addEventListener("click", () => {
      if (!this.hidden.delete(kind)) this.hidden.add(kind);
      entry.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
      this.draw();
    });
    return entry;
  }

  listen() {
    const svg = this.svg;
    let start = null;
    const xOf = (event) => event.clientX - svg.getBoundingClientRect().left;
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      clearTimeout(this.clicked);
      start = xOf(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      const x = xOf(event);
      if (start !== null && Math.abs(x - start) > 6) this.brush(start, x);
      else this.point(this.nearest(x));
    });
    svg.addEventListener("pointerup", (event) => {
      const x = xOf(event);
      const from = start;
      start = null;
      this.brush(0, 0);
      if (from === null) return;
      if (Math.abs(x - from) > 6) this.show([this.value(Math.min(from, x)), this.value(Math.max(from, x))]);
      else this.clicked = setTimeout((datum) => this.choose(datum), DOUBLE_CLICK, this.nearest(x));
    });
    svg.addEventListener("pointercancel", () => {
      start = null;
      this.brush(0, 0);
    });
    svg.addEventListener("pointerleave", () => this.point(null));
    svg.addEventListener("blur", () => this.point(null));
    svg.addEventListener("dblclick", () => {
      clearTimeout(this.clicked);
      this.show(this.full);
    });
    svg.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        this.zoom(event.deltaY > 0 ? 1.25 : 0.8, this.value(xOf(event)));
      },
      { passive: false },
    );
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    const zooms = { "+": 0.5, "=": 0.5, "-": 2 };
    if (event.key in steps) this.step(steps[event.key]);
    else if (event.key in zooms) this.zoom(zooms[event.key], this.at?.x ?? null);
    else if (event.key === "0") this.show(this.full);
    else if (event.key === "Enter" && this.at) this.choose(this.at);
    else if (event.key === "Escape") this.point(null);
    else return;
    event.preventDefault();
  }

  /** The cursor goes so many values on, and the view with it. */
  step(by) {
    const rows = this.visible();
    if (!rows.length) return;
    const [low, high] = this.view;
    const known = rows.indexOf(this.at);
    const first = rows.findIndex((row) => row.x + this.width > low);
    const index = known >= 0 || !Number.isFinite(by) ? known + by : Math.max(first, 0);
    const next = rows[Math.max(0, Math.min(rows.length - 1, index))];
    if (next.x < low || next.x + this.width > high) {
      const half = (high - low) / 2;
      this.show([next.x - half, next.x + half]);
    }
    this.point(next);
    this.status.textContent = this.options.say(next).join(", ");
  }

  zoom(factor, around = null) {
    const [low, high] = this.view;
    const middle = around ?? (low + high) / 2;
    this.show([middle - (middle - low) * factor, middle + (high - middle) * factor]);
  }

  move(share) {
    const by = share * (this.view[1] - this.view[0]);
    this.show([this.view[0] + by, this.view[1] + by]);
  }

  /** The view becomes [low, high], as far as there are data, and not less than a few values. */
  show([low, high]) {
    const [first, last] = this.full;
    const size = Math.min(last - first, Math.max(high - low, this.least));
    const start = Math.min(Math.max((low + high - size) / 2, first), last - size);
    this.view = [start, start + size];
    if (this.at && (this.at.x + this.width <= start || this.at.x >= start + size)) this.at = null;
    this.draw();
  }

  choose(datum) {
    if (datum && this.options.chosen) this.options.chosen(datum);
  }

  visible() {
    return this.data.filter((datum) => !this.hidden.has(datum.kind));
  }

  inView() {
    const [low, high] = this.view;
    return this.visible().filter((datum) => datum.x + this.width >= low && datum.x <= high);
  }

  nearest(x) {
    const middle = (datum) => this.px(datum.x + this.width / 2);
    const rows = this.inView();
    return rows.reduce((best, row) => (!best || Math.abs(middle(row) - x) < Math.abs(middle(best) - x) ? row : best), null);
  }

  value(x) {
    const { left, right } = this.frame;
    return this.view[0] + ((x - left) / (right - left)) * (this.view[1] - this.view[0]);
  }

  brush(from, to) {
    const { left, right, top, bottom } = this.frame;
    const [a, b] = [Math.min(from, to), Math.max(from, to)].map((x) => Math.max(left, Math.min(right, x)));
    this.selection.setAttribute("x", a);
    this.selection.setAttribute("width", Math.max(0, b - a));
    this.selection.setAttribute("y", top);
    this.selection.setAttribute("height", bottom - top);
  }

  /** The cursor stands on a value, or nowhere. */
  point(datum) {
    this.at = datum;
    this.tip.hidden = !datum;
    this.cursor?.replaceChildren();
    if (!datum || !this.frame) return;
    const { top, bottom, right } = this.frame;
    const x = this.px(datum.x + this.width / 2);
    const y = this.py(this.heightOf(datum));
    this.cursor.append(shape("line", { x1: x, x2: x, y1: top, y2: bottom }), shape("circle", { cx: x, cy: y, r: 6 }));
    const [head, ...rest] = this.options.say(datum);
    this.tip.replaceChildren(element("strong", {}, head), ...rest.map((line) => element("span", {}, line)));
    const width = this.tip.offsetWidth;
    const height = this.tip.offsetHeight;
    const beside = x > right / 2 ? x - width - 12 : x + 12;
    const fits = beside >= 0 && beside + width <= right + 12;
    const [left, upper] = fits ? [beside, y - height / 2] : [x - width / 2, y > height + 14 ? y - height - 14 : y + 14];
    this.tip.style.left = `${Math.max(0, Math.min(left, right + 12 - width))}px`;
    this.tip.style.top = `${fits ? Math.max(0, Math.min(upper, bottom - height)) : upper}px`;
  }

  heightOf(datum) {
    return Math.min(datum.y, this.range[1]);
  }

  /** The y axis: what is in view, with some room. */
  fit() {
    const { yTop, yBase, logarithmic } = this.options;
    const values = this.inView().map((datum) => (yTop ? Math.min(datum.y, yTop) : datum.y));
    if (!values.length) return [yBase ?? 0, (yBase ?? 0) + 1];
    const low = yBase ?? Math.min(...values);
    let high = Math.max(...values);
    if (!(high > low)) high = low + Math.max(Math.abs(low) * 0.1, 1e-6);
    const room = (high - low) * 0.06;
    if (logarithmic) return [low, Math.max(high * 1.6, low * 10)];
    return [yBase ?? low - room, high + room];
  }

  draw() {
    const width = this.node.clientWidth;
    if (!width) return;
    const height = width < 600 ? 260 : 320;
    const { xLabel, yLabel, title, logarithmic } = this.options;
    this.range = this.fit();
    const yTicks = logarithmic ? decades(...this.range, 6) : ticks(...this.range, height / 48);
    const yText = logarithmic ? (value) => (value >= 1 ? integer(value) : number(value, 1)) : tickText(yTicks);
    const labelled = yTicks.map(yText);
    const left = 36 + 6.6 * Math.max(...labelled.map((text) => text.length), 1);
    this.frame = { left, right: width - 12, top: 10, bottom: height - 48 };
    const { right, top, bottom } = this.frame;
    this.px = mapping(...this.view, left, right);
    this.py = mapping(...this.range, bottom, top, logarithmic);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    const clip = `clip-${(Chart.count = (Chart.count ?? 0) + 1)}`;
    this.selection = shape("rect", { class: "selection", width: 0 });
    this.cursor = shape("g", { class: "cursor" });
    this.svg.replaceChildren(
      shape("title", {}, title),
      shape("clipPath", { id: clip }, shape("rect", { x: left, y: top - 8, width: right - left, height: bottom - top + 8 })),
      ...this.bands(),
      ...yTicks.map((y) => shape("line", { class: "grid", x1: left, x2: right, y1: this.py(y), y2: this.py(y) })),
      ...yTicks.map((y, i) => shape("text", { class: "tick end", x: left - 7, y: this.py(y) + 4 }, labelled[i])),
      ...this.xAxis(),
      shape("text", { class: "label", x: (left + right) / 2, y: height - 6 }, xLabel),
      shape("text", { class: "label", transform: `translate(13 ${(top + bottom) / 2}) rotate(-90)` }, yLabel),
      shape("g", { "clip-path": `url(#${clip})` }, ...this.verticals(), ...this.marks()),
      this.cursor,
      this.selection,
    );
    const all = this.view[1] - this.view[0] >= this.full[1] - this.full[0] - 1e-9;
    for (const name of ["left", "right", "out", "all"]) this.buttons[name].disabled = all;
    this.buttons.in.disabled = this.view[1] - this.view[0] <= this.least;
    this.node.dataset.view = this.view.map((value) => value.toFixed(3)).join(" ");
    this.point(this.at);
  }

  /** Every other block of layers has a tinted background. */
  bands() {
    const { top, bottom, left, right } = this.frame;
    const clamp = (x) => Math.max(left, Math.min(right, x));
    return (this.options.bands ?? []).map(([from, to]) => {
      const x = clamp(this.px(from));
      return shape("rect", { class: "band", x, y: top, width: Math.max(0, clamp(this.px(to)) - x), height: bottom - top });
    });
  }

  xAxis() {
    const { left, right, bottom } = this.frame;
    const placed = [];
    let free = -Infinity;
    for (const [value, text] of this.options.xTicks(...this.view, right - left)) {
      const half = (6.6 * text.length) / 2 + 5;
      const x = this.px(value);
      const middle = Math.max(left + half - 5, Math.min(right - half + 5, x));
      if (x < left - 0.5 || x > right + 0.5 || middle - half < free) continue;
      free = middle + half;
      placed.push(shape("line", { class: "stroke", x1: x, x2: x, y1: bottom, y2: bottom + 5 }));
      placed.push(shape("text", { class: "tick", x: middle, y: bottom + 18 }, text));
    }
    return [shape("line", { class: "stroke", x1: left, x2: right, y1: bottom, y2: bottom }), ...placed];
  }

  verticals() {
    const { top, bottom } = this.frame;
    return this.options.lines.flatMap(([at, text]) => {
      const x = this.px(at);
      const before = x > this.frame.right - 6.6 * text.length - 8;
      const label = { class: before ? "tick end" : "tick start", x: before ? x - 5 : x + 5, y: top + 9 };
      return [shape("line", { class: "limit", x1: x, x2: x, y1: top, y2: bottom }), shape("text", label, text)];
    });
  }

  marks() {
    const { style, kinds, joined } = this.options;
    const rows = this.inView();
    const x = (row) => this.px(row.x).toFixed(1);
    const y = (row) => this.py(this.heightOf(row)).toFixed(1);
    const path = (list) => list.map((row, i) => `${i ? "L" : "M"}${x(row)},${y(row)}`).join("");
    if (style === "line") return [shape("path", { class: "line kind-0", d: path(this.visible()) })];
    if (style === "bars") {
      return rows.map((row) => {
        const bar = this.px(row.x + this.width) - this.px(row.x);
        const base = this.frame.bottom;
        const top = Math.min(base, this.py(this.heightOf(row)));
        const gap = bar > 4 ? 1 : 0;
        const kind = Math.max(0, kinds.indexOf(row.kind)) % FORMS.length;
        return shape("rect", {
          class: `fill kind-${kind}`,
          x: this.px(row.x) + gap / 2,
          width: gap ? bar - gap : bar + 0.4,
          y: top,
          height: row.y > 0 ? Math.max(base - top, 1) : 0,
        });
      });
    }
    const stream = this.visible().filter((row) => row.kind === joined);
    const lines = stream.length > 1 ? [shape("path", { class: "line thin", d: path(stream) })] : [];
    const size = rows.length > 250 ? 2.6 : 3.6;
    const dots = rows.map((row) => {
      const kind = kinds.indexOf(row.kind) % FORMS.length;
      const above = row.y > this.range[1];
      const transform = `translate(${x(row)} ${y(row)})`;
      return shape("path", { class: `mark kind-${kind}${above ? " above" : ""}`, transform, d: MARKS[FORMS[kind]](size) });
    });
    return [...lines, ...dots];
  }
}
