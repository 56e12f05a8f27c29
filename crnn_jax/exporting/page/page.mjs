// The page: takes images that are chosen, dropped or pasted, and shows what is read in them.

const find = (id) => document.getElementById(id);
const zone = find("zone");
const results = find("results");
const percent = (share, digits) => `${(share * 100).toFixed(digits)}%`;

const reader = import("./reader.mjs");
let reading = Promise.resolve(); // images are read one after the other

say("Loading the model…");
reader.then(({ ready }) => ready).then(
  ([, model]) => {
    find("model").textContent = `${model.name}, step ${model.step}`;
    if (!results.childElementCount) say("Ready.");
  },
  (error) => {
    say("");
    complain(`The model could not be loaded (${reason(error)}); reload the page to try again.`);
  },
);

/** Shows a message in the line below the drop zone; screen readers say it. */
function say(text) {
  find("status").textContent = text;
}

/** Shows what went wrong, or nothing if the text is empty. */
function complain(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

const reason = (error) => String(error?.message ?? error).split("\n")[0];

/** Shows files at once, the newest above, and reads them in their order. */
function take(files) {
  complain("");
  const cards = files.map((file) => [file, newCard(file)]);
  results.prepend(...cards.map(([, card]) => card));
  find("answers").hidden = false;
  say(cards.length === 1 ? "Reading the image…" : `Reading ${cards.length} images…`);
  for (const [file, card] of cards) reading = reading.then(() => readInto(card, file));
  if (cards.length > 1) reading.then(() => sayHowMany(cards.map(([, card]) => card)));
}

function sayHowMany(cards) {
  const failed = cards.filter((card) => card.classList.contains("failed")).length;
  say(`${failed ? `${cards.length - failed} of ` : ""}${cards.length} images read.`);
}

function newCard(file) {
  const card = find("card").content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  card.querySelector(".name").textContent = file.name;
  image.alt = file.name;
  image.src = URL.createObjectURL(file);
  return card;
}

async function readInto(card, file) {
  try {
    const { read } = await reader;
    show(card, await read(file));
  } catch (error) {
    const text = error.name === "InvalidStateError"
      ? "The browser cannot open this file; choose a PNG, JPEG or WebP image that is not too large."
      : `This image could not be read: ${reason(error)}.`;
    card.querySelector(".failure").textContent = text;
    card.classList.add("failed");
    say(`${file.name}: ${text}`);
  }
  card.removeAttribute("aria-busy");
}

function show(card, { confidence, characters }) {
  const text = characters.map((one) => one.text).join("");
  const copy = card.querySelector(".copy");
  card.querySelector(".text").textContent = text;
  const data = card.querySelector("data");
  data.value = confidence;
  data.textContent = percent(confidence, 1);
  card.querySelector(".bar").style.setProperty("--share", confidence);
  card.querySelector(".characters").append(...characters.map(newCharacter));
  copy.disabled = !text;
  copy.addEventListener("click", () => copyText(card.querySelector(".text"), copy));
  say(text ? `${text}, confidence ${percent(confidence, 1)}` : "No text was found in the image.");
}

function newCharacter({ text, confidence }) {
  const item = find("character").content.firstElementChild.cloneNode(true);
  item.querySelector(".glyph").textContent = text === " " ? "␣" : text;
  item.querySelector(".bar").style.setProperty("--share", confidence);
  item.querySelector("data").value = confidence;
  item.querySelector("data").textContent = percent(confidence, 0);
  return item;
}

async function copyText(element, button) {
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch { // it is refused, or missing because the page has come over http from another computer
    getSelection().selectAllChildren(element);
    if (!document.execCommand("copy")) {
      complain("The browser refused to copy the text; it is now selected, so copy it yourself.");
      return;
    }
  }
  button.textContent = "Copied";
  say(`Copied ${element.textContent}`);
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

for (const [button, input] of [["choose", "file"], ["photograph", "photo"]]) {
  find(button).addEventListener("click", () => find(input).click());
  find(input).addEventListener("change", ({ target }) => {
    take([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  });
}

addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) zone.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  takeFrom(event.dataTransfer, "What was dropped is not a file; save the image, and drop its file.");
});
addEventListener("paste", (event) => {
  takeFrom(event.clipboardData, "The clipboard has no image; copy an image, and paste again.");
});

function takeFrom(transfer, otherwise) {
  if (transfer.files.length) take([...transfer.files]);
  else complain(otherwise);
}
