"""The few widths that batches are padded to."""

from collections.abc import Sequence

import numpy as np

MULTIPLE = 8  # of pixels in a bucket's width; conv features shrink by 4, vectors like 8


def choose_buckets(widths: np.ndarray, count: int) -> tuple[int, ...]:
    """At most `count` bucket widths, with which `widths` (N,) are padded the least.

    Widths have long tails: of 78,465 captchas in many styles a third is wider than 128 pixels, and
    the widest has 568, to which three buckets for as many images each would pad all of these.
    """
    bounds, counts = np.unique(-(-widths // MULTIPLE) * MULTIPLE, return_counts=True)
    bounds, below = np.append(0, bounds), np.append(0, counts.cumsum())
    # of_one[i, j]: columns in all of a bucket for what is wider than bounds[i], up to bounds[j].
    of_one = np.where(bounds[:, None] <= bounds, bounds * (below - below[:, None]), np.inf)
    # The least for all up to bounds[j], with one bucket more each time, and where the last begins.
    least, beginnings = of_one[0], [np.zeros(len(bounds), int)]
    for _ in range(count - 1):
        columns = least[:, None] + of_one
        least = columns.min(0)
        beginnings.append(columns.argmin(0))
    ends = [len(bounds) - 1]
    for beginning in reversed(beginnings):
        ends.append(int(beginning[ends[-1]]))
    return tuple(sorted({int(bounds[end]) for end in ends} - {0}))


def bucket_width(width: int, buckets: Sequence[int]) -> int:
    """The narrowest bucket that holds `width`; wider ones are rounded up to a multiple."""
    return min((bucket for bucket in buckets if bucket >= width), default=round_up(width))


def round_up(width: int) -> int:
    """The next multiple of MULTIPLE."""
    return -(-width // MULTIPLE) * MULTIPLE


def padding_share(widths: np.ndarray, buckets: Sequence[int]) -> float:
    """The share of padding if each image of `widths` (N,) is padded to its bucket."""
    return 1 - widths.sum() / sum(bucket_width(int(width), buckets) for width in widths)
