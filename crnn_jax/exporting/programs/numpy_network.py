"""The network that model.json describes, in NumPy, with the arrays in model.safetensors."""

import json
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view as windows
from safetensors.numpy import load_file

FOLDER = Path(__file__).resolve().parent
MODEL = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
ARRAYS = load_file(FOLDER / "model.safetensors")


def lstm(x: np.ndarray, place: str) -> np.ndarray:
    """One direction of an LSTM, from (T, D) to (T, hidden)."""
    kernel = ARRAYS[f"{place}/recurrent/kernel"]
    hidden = cell = np.zeros(len(kernel), np.float32)
    outputs = []
    for step in x @ ARRAYS[f"{place}_input/kernel"] + ARRAYS[f"{place}_input/bias"]:
        i, f, g, o = np.split(step + hidden @ kernel, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        hidden = o * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


def logits(pixels: np.ndarray) -> np.ndarray:
    """The logits (T, K) of an image (H, W, C) uint8 that was resized."""
    x = pixels / np.float32(127.5) - 1
    for kind, place, size in MODEL["layers"]:
        a = {name: ARRAYS.get(f"params/{place}/{name}", 0) for name in ("kernel", "scale", "bias")}
        if kind == "normalize":  # to zero mean and unit variance
            x = (x - x.mean()) / np.sqrt(x.var() + np.float32(1e-4))
        elif kind == "blocks":  # n x n pixels become one
            rows, columns = (length // size for length in x.shape[:2])
            x = x[: rows * size, : columns * size].reshape(rows, size, columns, size, -1)
            x = x.swapaxes(1, 2).reshape(rows, columns, -1)
        elif kind == "conv":
            x = windows(
                np.pad(x, [(size, size), (size, size), (0, 0)]), a["kernel"].shape[:2], (0, 1)
            )
            x = np.tensordot(x, a["kernel"], ((3, 4, 2), (0, 1, 2))) + a["bias"]
        elif kind == "norm":
            mean, var = (ARRAYS[f"batch_stats/{place}/{name}"] for name in ("mean", "var"))
            x = (x - mean) / np.sqrt(var + np.float32(1e-5)) * a["scale"] + a["bias"]
        elif kind == "relu":
            x = np.maximum(x, np.float32(size) * x)
        elif kind == "pool":
            window, stride, padding = size
            edges = [(n, n) for n in (*padding, 0)]
            x = windows(np.pad(x, edges, constant_values=-np.inf), window, (0, 1))
            x = x[:: stride[0], :: stride[1]].max((3, 4))
        elif kind == "time steps":
            x = x.mean(0)
        elif kind == "lstm":
            ways = (
                lstm(x, f"params/{place}/forward"),
                lstm(x[::-1], f"params/{place}/backward")[::-1],
            )
            x = np.concatenate(ways, axis=1)
        elif kind == "dense":
            x = x @ a["kernel"] + a["bias"]
    return x
