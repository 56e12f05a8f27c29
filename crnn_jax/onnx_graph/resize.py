"""Images of any size become images as the network takes them, as ONNX nodes.

The result is that of `data.images.resize`, which uses Pillow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crnn_jax.onnx_graph.nodes import Graph, Value

GRAY = np.array([[19595], [38470], [7471]], np.float32)
"""The weights of red, green and blue in Pillow's gray, in units of 1/65536."""

ONE = 2**22  # what stands for 1 in the whole numbers by which Pillow multiplies


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
    rows_first = _rows_first(graph, size, target) if form.rows_first else np.bool_(False)
    first, second = (
        graph("Gather", target, graph("Where", rows_first, *np.array(axes)))
        for axes in ([[0], [1]], [[1], [0]])
    )
    images = _arranged(graph, rows_first, images, [1, 0, 2, 3], [2, 0, 1, 3])
    images = _resampled(graph, images, first)  # (size, B, size of the other axis, C)
    images = _resampled(graph, graph("Transpose", images, perm=[2, 1, 3, 0]), second)
    images = _arranged(graph, rows_first, images, [1, 2, 3, 0], [1, 2, 0, 3])
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


def _arranged(
    graph: Graph, rows_first: Value, images: str, if_so: Sequence[int], if_not: Sequence[int]
) -> str:
    """Transposes images in one of two ways."""
    return graph.either(
        rows_first,
        lambda inner: inner("Transpose", images, perm=if_so),
        lambda inner: inner("Transpose", images, perm=if_not),
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
    """Resizes the first axis of images (N, ...) uint8 to a size of shape (1,) as Pillow does.

    This is `precompute_coeffs` of Pillow's Resample.c for a triangle as wide as the source of two
    target pixels, or as two source pixels if there are fewer. `Resize` computes the places in
    single precision, so that many pixels differ by 1, and some by 20.
    """
    column = np.array([1])
    old = graph.size(images, 0)
    scale = graph("Div", graph.cast(old, np.float64), graph.cast(size, np.float64))
    support = graph("Max", scale, np.float64(1))
    targets = graph.cast(graph.range(size), np.float64)
    middle = graph("Mul", graph("Add", targets, np.float64(0.5)), scale)
    start = graph("Add", graph("Sub", middle, support), np.float64(0.5))
    start = graph("Max", graph("Floor", start), np.float64(0))
    stop = graph("Add", graph("Add", middle, support), np.float64(0.5))
    stop = graph("Min", graph("Floor", stop), graph.cast(old, np.float64))
    middle, start, stop = (graph("Unsqueeze", x, column) for x in (middle, start, stop))
    most = graph.cast(graph("Ceil", graph("Mul", support, np.float64(2))), np.int64)
    places = graph("Add", graph.cast(graph.range(most), np.float64), start)  # (size, most)
    distance = graph("Add", graph("Sub", places, middle), np.float64(0.5))
    distance = graph("Abs", graph("Mul", distance, graph("Div", np.float64(1), support)))
    weights = graph("Max", graph("Sub", np.float64(1), distance), np.float64(0))
    inside = graph("Less", places, stop)
    weights = graph("Where", inside, weights, np.float64(0))
    weights = graph("Div", weights, graph("ReduceSum", weights, column))
    weights = graph("Add", graph("Mul", weights, np.float64(ONE)), np.float64(0.5))
    weights = graph.cast(graph("Floor", weights), np.int32)
    weights = graph("Unsqueeze", weights, np.array([2, 3, 4]))
    places = graph("Where", inside, places, np.float64(0))
    pixels = graph.cast(graph("Gather", images, graph.cast(places, np.int64), axis=0), np.int32)
    sums = graph("ReduceSum", graph("Mul", pixels, weights), column, keepdims=0)
    rounded = graph("Div", graph("Add", sums, np.int32(ONE // 2)), np.int32(ONE))
    return graph.cast(rounded, np.uint8)
