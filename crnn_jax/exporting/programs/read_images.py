"""Reads images: python read.py IMAGE...; needs numpy, pillow, and what network.py needs."""

import sys
from itertools import groupby

import numpy as np
from confidence import confidence  # pyright: ignore[reportMissingImports]
from network import MODEL, logits  # pyright: ignore[reportMissingImports]
from PIL import Image, ImageOps


def pixels(image: Image.Image) -> np.ndarray:
    """An image as the network takes it, (H, W, C) uint8: upright, on white, and resized."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(int) + 128) // 257).astype(np.uint8))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    width = min(max(round(image.width * MODEL["height"] / image.height), 8), MODEL["max_width"])
    size = MODEL["width"] or width, MODEL["height"]
    image = image.convert(MODEL["mode"]).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(ImageOps.invert(image) if MODEL["invert"] else image).reshape(*size[::-1], -1)


def best_path(logits: np.ndarray) -> tuple[list[int], list[int]]:
    """The best path (T,) for logits (T, K) in the likeliest set of classes, and this set."""
    found: list[tuple[float, list[int], list[int]]] = []
    for classes, prior, of_each in MODEL["sets"]:
        path = np.array(classes)[logits[:, classes].argmax(1)].tolist()
        characters = sum(k > 0 for k, _ in groupby(path))
        score = prior + of_each * characters + logits[range(len(path)), path].sum()
        found.append((score, path, classes))
    return max(found)[1:]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found = logits(pixels(Image.open(name)))
        text = [k for k, _ in groupby(best_path(found)[0]) if k]
        print(name, "".join(MODEL["characters"][k - 1] for k in text), sep="\t", end="\t")
        print(round(confidence(found, text, MODEL), 4))
