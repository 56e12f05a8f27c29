"""Layers of a convolutional recurrent network in NumPy, for an image (H, W, C) at a time."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view as windows


def blocks(x: np.ndarray, n: int) -> np.ndarray:
    """Makes one pixel of each n x n, which has their channels one after another."""
    rows, columns = (size // n for size in x.shape[:2])
    x = x[: rows * n, : columns * n].reshape(rows, n, columns, n, -1)
    return x.swapaxes(1, 2).reshape(rows, columns, -1)


def convolution(x: np.ndarray, kernel: np.ndarray, padding: int) -> np.ndarray:
    """A convolution with a kernel (h, w, C, D)."""
    x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
    return np.tensordot(windows(x, kernel.shape[:2], (0, 1)), kernel, ((3, 4, 2), (0, 1, 2)))


def max_pool(x: np.ndarray, window: list[int], stride: list[int], padding: list[int]) -> np.ndarray:
    """A max pool with windows, strides and padding in rows and columns."""
    x = np.pad(x, [(n, n) for n in (*padding, 0)], constant_values=-np.inf)
    return windows(x, window, (0, 1))[:: stride[0], :: stride[1]].max((3, 4))


def lstm(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """One direction of an LSTM, (T, hidden), of its multiplied inputs (T, 4 * hidden)."""
    hidden = cell = np.zeros(len(kernel), np.float32)
    outputs = np.zeros((len(x), len(kernel)), np.float32)
    for place, step in enumerate(x):
        i, f, g, o = np.split(step + hidden @ kernel, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        outputs[place] = hidden = o * np.tanh(cell)
    return outputs
