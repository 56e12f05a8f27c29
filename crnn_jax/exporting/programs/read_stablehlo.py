"""Reads images: python read.py IMAGE...; needs jax, flatbuffers, numpy and pillow."""

import json
import sys
from itertools import groupby
from pathlib import Path

import jax
import jax.export
import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
CHARACTERS = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))["characters"]
ARRAYS = jax.device_put(dict(np.load(FOLDER / "arrays.npz")))
BYTES = (FOLDER / "model.stablehlo").read_bytes()
PROGRAM = jax.jit(jax.export.deserialize(bytearray(BYTES)).call)


def decoded(path: str) -> np.ndarray:
    """An image file as (H, W, 1 or 3) uint8: upright, and on white where it is transparent."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype("u1"))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.atleast_3d(np.asarray(image if image.mode == "L" else image.convert("RGB")))


def read(image: np.ndarray) -> tuple[str, float]:
    """The text of an image, and how likely it is right. JAX compiles once for each size."""
    classes, lengths, _, confidence, _ = PROGRAM(ARRAYS, image[None])
    path = np.asarray(classes)[0, : int(lengths[0])].tolist()
    return "".join(CHARACTERS[k - 1] for k, _ in groupby(path) if k), float(confidence[0])


for path in sys.argv[1:]:
    print(path, *read(decoded(path)), sep="\t")
