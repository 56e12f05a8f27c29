"""The few widths that batches are padded to."""

from collections.abc import Sequence

import numpy as np

MULTIPLE = 8  # of pixels in a bucket's width; conv features shrink by 4, vectors like 8


def choose_buckets(widths: np.ndarray, count: int) -> tuple[int, ...]:
    """At most `count` bucket widths for `widths` (N,), each for about as many pictures."""
    quantiles = np.quantile(widths, np.arange(1, count + 1) / count, method="higher")
    return tuple(sorted({round_up(int(width)) for width in quantiles}))


def bucket_width(width: int, buckets: Sequence[int]) -> int:
    """The narrowest bucket that holds `width`; wider ones are rounded up to a multiple."""
    return min((bucket for bucket in buckets if bucket >= width), default=round_up(width))


def round_up(width: int) -> int:
    """The next multiple of MULTIPLE."""
    return -(-width // MULTIPLE) * MULTIPLE


def padding_share(widths: np.ndarray, buckets: Sequence[int]) -> float:
    """The share of padding if each picture of `widths` (N,) is padded to its bucket."""
    return 1 - widths.sum() / sum(bucket_width(int(width), buckets) for width in widths)
