"use strict";
document.documentElement.classList.add("script");

// The theme: that of the system, until the button is used.
const theme = document.getElementById("theme");
const remembered = {
  get: () => { try { return localStorage.getItem("crnn_jax-theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("crnn_jax-theme", value); } catch { /* no storage */ } },
};
function setTheme(value) {
  document.documentElement.dataset.theme = value;
  theme.setAttribute("aria-pressed", String(value === "dark"));
}
setTheme(remembered.get() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
theme.addEventListener("click", () => {
  const value = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(value);
  remembered.set(value);
});

// The gallery: which images are shown, in which order, and how many at a time.
const PAGE = 24;
const ORDERS = {
  worst: (a, b) => b.worst - a.worst || a.confidence - b.confidence,
  sure: (a, b) => b.confidence - a.confidence,
  unsure: (a, b) => a.confidence - b.confidence,
  index: (a, b) => a.index - b.index,
};
function startGallery(gallery) {
  const form = gallery.querySelector(".filters");
  if (!form) return;
  const list = gallery.querySelector(".cards");
  const status = gallery.querySelector(".status");
  const more = gallery.querySelector(".more");
  const cards = [...list.children].map((element) => ({
    element,
    which: element.dataset.which,
    index: Number(element.dataset.index),
    worst: Number(element.dataset.worst),
    confidence: Number(element.dataset.confidence),
    length: element.dataset.length,
    mistakes: element.dataset.mistakes,
    words: [...element.querySelectorAll(".text, .name")].map((one) => one.textContent).join("\n").toLowerCase(),
  }));
  let limit = PAGE;

  function update() {
    const value = (name) => (form.elements[name] ? form.elements[name].value : "");
    const search = value("search").toLowerCase();
    const chosen = cards.filter((card) =>
      (value("which") === "all" || card.which === value("which"))
      && (!value("characters") || card.length === value("characters"))
      && (!value("mistake") || card.mistakes.includes(` ${value("mistake")} `))
      && card.words.includes(search));
    chosen.sort((a, b) => ORDERS[value("order")](a, b) || a.index - b.index);
    const shown = new Set(chosen.slice(0, limit));
    for (const card of cards) card.element.hidden = !shown.has(card);
    list.append(...chosen.map((card) => card.element));
    more.hidden = shown.size === chosen.length;
    const number = chosen.length === 1 ? "1 image" : `${chosen.length} images`;
    status.textContent = chosen.length === 0 ? "No image fits; change the choice above."
      : shown.size < chosen.length ? `${shown.size} of ${number} shown` : `${number} shown`;
    return chosen;
  }
  const restart = () => { limit = PAGE; update(); };
  form.addEventListener("input", restart);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.querySelector("button").addEventListener("click", () => {
    limit += PAGE;
    const first = update()[limit - PAGE].element;  // the keyboard goes on where the new ones begin
    first.tabIndex = -1;
    first.focus({ preventScroll: true });
  });
  for (const button of document.querySelectorAll("[data-mistake]")) {
    button.addEventListener("click", () => {
      form.reset();
      form.elements.mistake.value = button.dataset.mistake;
      restart();
      gallery.scrollIntoView();
      form.elements.mistake.focus({ preventScroll: true });
    });
  }
  update();
}
for (const gallery of document.querySelectorAll(".gallery")) startGallery(gallery);

// Tables: a button in each heading sorts the rows.
for (const table of document.querySelectorAll(".sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  for (const heading of headings.filter((one) => one.dataset.sort)) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const column = headings.indexOf(heading);
      const before = heading.getAttribute("aria-sort");
      const first = heading.dataset.sort === "number" ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const direction = before === first ? other : first;
      for (const one of headings) one.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", direction);
      const value = (row) => Number(row.cells[column].dataset.value);
      const sign = direction === "ascending" ? 1 : -1;
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => sign * (value(a) - value(b))));
    });
  }
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const command = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);  // the browser does not allow it; it is one key away
    }
  });
}
