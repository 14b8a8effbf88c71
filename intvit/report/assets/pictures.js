/* The worst images, with both predictions. */

const FIRST_PICTURES = 12;

function picturesSection(data) {
  const rows = data.worst;
  const compared = rows.some((row) => row.cosine !== null);
  const known = data.accuracy.cosine || data.accuracy.top1;
  if (!known) return [note("Which images are worst is known with --against MODEL --weights FILE, or with --labels CSV.")];
  if (!rows.length) return [note("None: every image is right.")];
  const order = compared
    ? "Those with another predicted class than float first, then by the cosine of the outputs, lowest first."
    : "Wrong predictions, the surest first.";
  return [
    note(`${order} As the model sees them; pictures of your own images, kept in this file alone.`),
    data.worstLeftOut ? note(`The next ${plural(data.worstLeftOut, "image")} would make this page larger than 5 MB.`) : null,
    ...pictureList(rows),
  ];
}

/** The first pictures, and a button for the others. */
function pictureList(rows) {
  const list = element("ul", { class: "pictures" }, ...rows.slice(0, FIRST_PICTURES).map(pictureCard));
  const rest = rows.slice(FIRST_PICTURES);
  if (!rest.length) return [list];
  const more = element("button", { type: "button", class: "more" }, `Show all ${plural(rows.length, "image")}`);
  more.addEventListener("click", () => {
    const added = rest.map(pictureCard);
    list.append(...added);
    more.remove();
    added[0].setAttribute("tabindex", "-1");
    added[0].focus();
  });
  return [list, more];
}

function pictureCard(row) {
  const guesses = [
    ["integers", row.ours],
    ["float", row.exact],
    ["label", row.label],
  ].filter(([, guess]) => guess);
  const alternative = [row.name, ...guesses.map(([who, guess]) => `${who}: ${className(guess)}`)].join(", ");
  return element(
    "li",
    {},
    element("img", { src: row.src, alt: alternative }),
    element(
      "div",
      {},
      element("dl", {}, ...guesses.map(([who, guess]) => guessLine(who, guess, row.label))),
      element(
        "p",
        { class: "file" },
        row.agrees === false ? element("span", { class: "differs" }, "another class than float") : null,
        row.cosine === null ? null : element("span", {}, `cosine ${row.cosine.toFixed(4)}`),
        element("span", { class: "name", title: row.name }, row.name),
      ),
    ),
  );
}

function guessLine(who, guess, label) {
  const right = who !== "label" && label ? (guess.index === label.index ? "right" : "wrong") : null;
  const sure = guess.probability === undefined ? null : element("span", { class: "sure" }, percent(guess.probability, 0));
  const mark = right && element("span", { class: `mark-${right}`, title: right }, right === "right" ? "\u2713" : "\u2717", element("span", { class: "hidden" }, ` ${right}`));
  const text = element("span", { class: "class", title: className(guess) }, className(guess).split(",")[0]);
  return element("div", {}, element("dt", {}, who), element("dd", {}, text, " ", element("span", { class: "verdicts" }, sure, mark)));
}

function className(guess) {
  return guess.name ?? `class ${guess.index}`;
}
