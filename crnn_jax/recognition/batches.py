"""Which images are read together, and how they are padded."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.images import MIN_WIDTH, pad_batch

# Each batch shape costs a compilation, which takes as long as reading 500 images, and in later
# processes a trace, which takes as long as 60. So there are few shapes, in geometric steps.
WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
BATCH_SIZES = (1, 8, 32, 128, 512)

MOST_PADDING = 1.25
"""The width of a batch of any shape, compared with that of its narrowest image."""


class Batch(NamedTuple):
    """Images in one array.

    Attributes:
      size: the number of images; others after them fill the batch.
      images: (B, H, W, C) uint8, padded on the right.
      widths: (B,) int32, their widths in pixels.
    """

    size: int
    images: np.ndarray
    widths: np.ndarray


def in_few_shapes(images: Sequence[np.ndarray], most: int, width: int = 0) -> Iterator[Batch]:
    """Yields batches of few shapes, for programs that are compiled for each.

    Args:
      images: uint8 (H, W, C), sorted by width.
      most: the largest batch.
      width: that of all images; 0 if they have different ones.
    """
    start = 0
    while rest := len(images) - start:
        size = batch_size(rest, most)
        group = images[start : start + size]
        height, _, channels = group[0].shape
        fill = [np.zeros((height, MIN_WIDTH, channels), np.uint8)] * (size - len(group))
        padded_width = bucket_width(group[-1].shape[1], (width,) if width else WIDTHS)
        yield Batch(len(group), *pad_batch([*group, *fill], padded_width))
        start += len(group)


def in_tight_shapes(images: Sequence[np.ndarray], most: int) -> Iterator[Batch]:
    """Yields batches with little padding, for programs that take any shape.

    Args:
      images: uint8 (H, W, C), sorted by width.
      most: the largest batch.
    """
    start = 0
    while start < len(images):
        limit = MOST_PADDING * images[start].shape[1]
        end = start + 1
        while end < min(start + most, len(images)) and images[end].shape[1] <= limit:
            end += 1
        group = images[start:end]
        yield Batch(len(group), *pad_batch(group, group[-1].shape[1]))
        start = end


def batch_size(count: int, most: int) -> int:
    """Returns the largest batch size, at most `most`, that `count` images fill at least half."""
    sizes = [*(size for size in BATCH_SIZES if size < most), most]
    return max(size for size in sizes if size <= 2 * count)
