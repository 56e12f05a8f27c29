// Reads images of one line of text in the browser, with onnxruntime-web alone.
import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";

const MOST_PIXELS = 4_000_000; // resizing takes some 60 bytes of memory for each
const LONGEST_SIDE = 16_384; // of a canvas in Safari
const OPAQUE = { alpha: false, willReadFrequently: true };
ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send

const here = (name) => new URL(name, import.meta.url).href;
const session = ort.InferenceSession.create(here("model.onnx"), { executionProviders: ["wasm"] });
const description = fetch(here("model.json")).then((answer) => answer.json());
/** Resolves when images can be read, to the session and the content of model.json. */
export const ready = Promise.all([session, description]);

/** The pixels (1, H, W, 3) of an image file: upright, on white, and in the colors of the file. */
async function pixels(file) {
  const image = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const area = image.width * image.height;
  const longest = Math.max(image.width, image.height);
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / area), LONGEST_SIDE / longest);
  const [width, height] = [image.width, image.height].map((x) => Math.ceil(x * scale));
  const context = new OffscreenCanvas(width, height).getContext("2d", OPAQUE);
  Object.assign(context, { fillStyle: "white", imageSmoothingQuality: "high" });
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  const rgb = context.getImageData(0, 0, width, height).data.filter((_, place) => place % 4 < 3);
  return new ort.Tensor("uint8", new Uint8Array(rgb.buffer), [1, height, width, 3]);
}

/** What an image file says: { confidence, characters: [{ text, confidence }, ...] }. */
export async function read(file) {
  const [images, [running, { characters: alphabet }]] = [await pixels(file), await ready];
  const { classes, log_probabilities: logs, confidence } = await running.run({ images });
  const characters = [];
  classes.data.forEach((k, t) => { // class 0 is the blank; a class that repeats is one character
    if (k && k !== classes.data[t - 1]) characters.push({ text: [...alphabet][k - 1], confidence: 0 });
    if (k) characters.at(-1).confidence = Math.max(characters.at(-1).confidence, Math.exp(logs.data[t]));
  });
  return { confidence: confidence.data[0], characters };
}
