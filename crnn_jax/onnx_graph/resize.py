"""Images of any size become images as the network takes them, as ONNX nodes.

The result is that of `data.images.resize`, which uses Pillow.
"""

from dataclasses import dataclass

import numpy as np

from crnn_jax.onnx_graph.nodes import Graph

GRAY = np.array([[19595], [38470], [7471]], np.float32)
"""The weights of red, green and blue in Pillow's gray, in units of 1/65536."""

ONE = 2**22  # what stands for 1 in the whole numbers by which Pillow multiplies
LOW = 2**6  # what the lower parts of these numbers are below; the upper parts are multiples


@dataclass(frozen=True)
class ImageForm:
    """The images that a network takes.

    Attributes:
      height: pixels.
      channels: 1 (gray) or 3 (RGB).
      width: pixels that all images are resized to; 0 keeps the aspect ratio of each image.
      min_width, max_width: pixels, the limits of other widths.
      invert: whether dark becomes light.
      rows_first: whether rows may be resized before columns, as by Pillow from version 13 on.
    """

    height: int
    channels: int
    width: int
    min_width: int
    max_width: int
    invert: bool
    rows_first: bool


def resized(graph: Graph, form: ImageForm, images: str) -> str:
    """Adds the resizing of images (B, H, W, C) uint8 with 1 or 3 channels.

    Returns:
      (B, channels, height, width) float32, 0 to 255.
    """
    if form.channels == 1:
        images = _gray(graph, images)
    else:
        images = graph("Expand", images, np.array([1, 1, 1, 3]))
    size = graph("Shape", images, start=1, end=3)
    target = graph("Concat", np.array([form.height]), _target_width(graph, form, size), axis=0)
    rows_first = graph("And", _rows_first(graph, size, target), np.bool_(form.rows_first))
    first, second = (
        graph("Gather", target, graph("Where", rows_first, *np.array(axes)))
        for axes in ([[0], [1]], [[1], [0]])
    )
    images = graph("Transpose", images, perm=[0, 3, 1, 2])
    images = _turned(graph, images, graph("Not", rows_first))
    images = graph("Transpose", _resampled(graph, images, first), perm=[0, 1, 3, 2])
    images = _turned(graph, _resampled(graph, images, second), rows_first)
    images = graph.cast(images, np.float32)
    return graph("Sub", np.float32(255), images) if form.invert else images


def prepared(graph: Graph, images: str) -> str:
    """Adds the conversion of resized images (B, height, W, channels) uint8.

    Returns:
      (B, channels, height, W) float32, 0 to 255.
    """
    return graph.cast(graph("Transpose", images, perm=[0, 3, 1, 2]), np.float32)


def _gray(graph: Graph, images: str) -> str:
    """Pillow's gray, (19595 R + 38470 G + 7471 B + 32768) >> 16; float32 has all these integers."""
    images = graph.cast(graph("Expand", images, np.array([1, 1, 1, 3])), np.float32)
    sums = graph("Add", graph("MatMul", images, GRAY), np.float32(32768))
    return graph.cast(graph("Floor", graph("Mul", sums, np.float32(2**-16))), np.uint8)


def _rows_first(graph: Graph, size: str, target: str) -> str:
    """Whether Pillow resizes rows before columns, bool; the rounding between them differs.

    It does so from version 13 on if the height shrinks by more than twice what the width does.
    """
    change = graph("Sub", size, target)
    rows, columns = (graph("Gather", change, np.int64(axis)) for axis in (0, 1))
    return graph("Greater", rows, graph("Max", graph("Mul", columns, np.int64(2)), np.int64(0)))


def _turned(graph: Graph, images: str, condition: str) -> str:
    """Swaps rows and columns if the condition is true."""
    return graph.either(
        condition,
        lambda inner: inner("Transpose", images, perm=[0, 1, 3, 2]),
        lambda inner: inner("Identity", images),
    )


def _target_width(graph: Graph, form: ImageForm, size: str) -> str:
    """The width, int64 of shape (1,), for a size (height, width); see `data.images`."""
    if form.width:
        return graph.constant(np.array([form.width]))
    # As in Python the quotient is in double precision, and halves are rounded to the even number.
    height, width = (
        graph.cast(graph("Gather", size, np.array([axis])), np.float64) for axis in (0, 1)
    )
    width = graph("Round", graph("Div", graph("Mul", width, np.float64(form.height)), height))
    least, most = np.float64(form.min_width), np.float64(form.max_width)
    return graph.cast(graph("Min", graph("Max", width, least), most), np.int64)


def _resampled(graph: Graph, images: str, size: str) -> str:
    """Resizes axis 2 of images (B, C, N, M) uint8 to a size of shape (1,) as Pillow does.

    This is `precompute_coeffs` of Pillow's Resample.c for a triangle as wide as the source of two
    target pixels, or as two source pixels if there are fewer. The operator `Resize` computes the
    places in single precision, so that many pixels differ by 1, and some by 20.
    """
    first = np.array([0])
    old = graph.cast(graph.size(images, 2), np.float64)
    scale = graph("Div", old, graph.cast(size, np.float64))
    support = graph("Max", scale, np.float64(1))
    targets = graph.cast(graph.range(size), np.float64)
    middle = graph("Mul", graph("Add", targets, np.float64(0.5)), scale)
    start = graph("Add", graph("Sub", middle, support), np.float64(0.5))
    start = graph("Max", graph("Floor", start), np.float64(0))
    stop = graph("Add", graph("Add", middle, support), np.float64(0.5))
    stop = graph("Min", graph("Floor", stop), old)
    most = graph.cast(graph("Ceil", graph("Mul", support, np.float64(2))), np.int64)
    steps = graph("Unsqueeze", graph.cast(graph.range(most), np.float64), np.array([1]))
    places = graph("Add", steps, start)  # (most, size)
    distance = graph("Add", graph("Sub", places, middle), np.float64(0.5))
    distance = graph("Abs", graph("Mul", distance, graph("Div", np.float64(1), support)))
    weights = graph("Max", graph("Sub", np.float64(1), distance), np.float64(0))
    inside = graph("Less", places, stop)
    weights = graph("Where", inside, weights, np.float64(0))
    weights = graph("Div", weights, graph("ReduceSum", weights, first))
    weights = graph("Floor", graph("Add", graph("Mul", weights, np.float64(ONE)), np.float64(0.5)))
    places = graph.cast(graph("Where", inside, places, np.float64(0)), np.int64)
    pixels = graph.cast(graph("Gather", images, places, axis=2), np.float32)
    # The sums have up to 30 bits, and single precision has 24. So the upper 16 bits of the weights
    # are summed up first; of the lower ones only what they carry over is needed.
    high = graph("Floor", graph("Mul", weights, np.float64(1 / LOW)))
    low = graph("Sub", weights, graph("Mul", high, np.float64(LOW)))
    high, low = (_weighted(graph, pixels, part) for part in (high, low))
    carry = graph("Floor", graph("Mul", low, np.float32(1 / LOW)))
    sums = graph("Add", graph("Add", high, carry), np.float32(ONE / LOW / 2))
    return graph.cast(graph("Mul", sums, np.float32(LOW / ONE)), np.uint8)  # without the fraction


def _weighted(graph: Graph, pixels: str, weights: str) -> str:
    """The sums (B, C, size, M) of pixels (B, C, most, size, M) by weights (most, size)."""
    weights = graph("Unsqueeze", graph.cast(weights, np.float32), np.array([2]))
    return graph("ReduceSum", graph("Mul", pixels, weights), np.array([2]), keepdims=0)
