"""The network that model.json describes, in NumPy, with the arrays in model.safetensors."""

import json
from pathlib import Path

import numpy as np
from layers import blocks, convolution, lstm, max_pool  # pyright: ignore[reportMissingImports]
from safetensors.numpy import load_file

FOLDER = Path(__file__).resolve().parent
MODEL = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
ARRAYS = load_file(FOLDER / "model.safetensors")


def logits(pixels: np.ndarray) -> np.ndarray:
    """The logits (T, K) of an image (H, W, C) uint8 that was resized."""
    x = pixels / np.float32(127.5) - 1
    for kind, paths, size in MODEL["layers"]:
        a = [ARRAYS[path] for path in paths]
        if kind == "normalize":  # to zero mean and unit variance
            x = (x - x.mean()) / np.sqrt(x.var() + np.float32(1e-4))
        elif kind == "blocks":
            x = blocks(x, size)
        elif kind == "convolution":
            x = convolution(x, a[0], size) + sum(a[1:])
        elif kind == "batch norm":
            x = (x - a[0]) / np.sqrt(a[1] + np.float32(1e-5)) * a[2] + a[3]
        elif kind == "relu":
            x = np.maximum(x, np.float32(size) * x)
        elif kind == "max pool":
            x = max_pool(x, *size)
        elif kind == "time steps":
            x = x.mean(0)
        elif kind == "lstm":
            back = lstm(x[::-1] @ a[3] + a[4], a[5])[::-1]
            x = np.hstack([lstm(x @ a[0] + a[1], a[2]), back])
        else:
            x = x @ a[0] + a[1]
    return x
