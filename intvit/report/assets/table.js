/* A table of rows with headings that sort it; long ones show their first rows until all are asked for. */

/**
 * `columns`: { title, value(row) -> element or text, sort(row) -> number or text, numeric, wide, first } each, where
 * `wide` columns are left out on narrow screens and `first` is the order of a first click ("up" or "down").
 */
class Table {
  constructor(rows, columns, { caption, limit = 12, unit = "row", sorted = null }) {
    this.rows = rows;
    this.columns = columns;
    this.limit = limit;
    this.unit = unit;
    this.sorted = sorted;
    this.body = element("tbody");
    this.headings = columns.map((column, index) => this.heading(column, index));
    const scroll = { class: "scroll", tabindex: "0", role: "region", "aria-label": caption };
    this.more = element("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => {
      this.limit = Infinity;
      this.draw();
    });
    this.node = element(
      "div",
      { class: "table" },
      element(
        "div",
        scroll,
        element(
          "table",
          {},
          element("caption", { class: "hidden" }, caption),
          element("thead", {}, element("tr", {}, ...this.headings)),
          this.body,
        ),
      ),
      this.more,
    );
    this.draw();
  }

  heading(column, index) {
    const sort = element("button", { type: "button", class: "sort" }, column.title);
    sort.addEventListener("click", () => {
      const down = this.sorted?.index === index ? !this.sorted.down : (column.first ?? "down") === "down";
      this.sorted = { index, down };
      this.draw();
    });
    const classes = [column.numeric && "numeric", column.wide && "wide"].filter(Boolean).join(" ");
    return element("th", { scope: "col", class: classes || null }, column.sort ? sort : column.title);
  }

  show(rows) {
    this.rows = rows;
    this.draw();
  }

  draw() {
    const rows = [...this.rows];
    if (this.sorted) {
      const { index, down } = this.sorted;
      const key = this.columns[index].sort;
      const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      rows.sort((a, b) => (down ? order(key(b), key(a)) : order(key(a), key(b))));
    }
    this.headings.forEach((heading, index) => {
      const direction = this.sorted?.index === index ? (this.sorted.down ? "descending" : "ascending") : null;
      if (direction) heading.setAttribute("aria-sort", direction);
      else heading.removeAttribute("aria-sort");
    });
    this.body.replaceChildren(...rows.slice(0, this.limit).map((row) => this.line(row)));
    this.more.hidden = rows.length <= this.limit;
    this.more.textContent = `Show all ${plural(rows.length, this.unit)}`;
  }

  line(row) {
    const cells = this.columns.map((column, index) => {
      const classes = [column.numeric && "numeric", column.wide && "wide"].filter(Boolean).join(" ");
      const attributes = { class: classes || null, scope: index ? null : "row" };
      return element(index ? "td" : "th", attributes, column.value(row));
    });
    return element("tr", {}, ...cells);
  }
}

/** A layer's path, which may break after each part, with its operation and type below it. */
function layerCell(row) {
  const parts = pathOf(row).split(/(?<=\.)/).flatMap((part) => [element("wbr"), part]);
  return element("span", { class: "layer" }, ...parts, element("small", {}, `${words(row.operation)}, ${row.dtype}`));
}

/** A number beside a bar as long as its share of `most`. */
function barCell(text, value, most) {
  const length = most > 0 ? Math.max(0, Math.min(1, value / most)) : 0;
  const fill = element("i");
  fill.style.width = `${100 * length}%`;
  return element("span", { class: "measure" }, element("span", { class: "track", "aria-hidden": "true" }, fill), element("span", {}, text));
}
