"""Buckets: the few widths that batches are padded to."""

from collections.abc import Sequence

import numpy as np

MULTIPLE = 8  # pixels; features have a quarter of the columns, and vectors often eight numbers


def choose_buckets(widths: np.ndarray, count: int) -> tuple[int, ...]:
    """Chooses at most `count` bucket widths that pad `widths` (N,) as little as possible.

    Buckets with equally many images would not do, because widths have long tails: in a set of
    78,465 captchas of many styles the widest third ranges from 128 to 568 pixels, and three such
    buckets would pad all of it to 568.
    """
    bounds, counts = np.unique(-(-widths // MULTIPLE) * MULTIPLE, return_counts=True)
    bounds, below = np.append(0, bounds), np.append(0, counts.cumsum())
    # of_one[i, j]: columns of pixels in one bucket for the widths in (bounds[i], bounds[j]].
    of_one = np.where(bounds[:, None] <= bounds, bounds * (below - below[:, None]), np.inf)
    # Dynamic programming: the fewest columns for all widths up to bounds[j], with one more bucket
    # in each round, and where the last of these buckets begins.
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
    """Returns the narrowest bucket that holds `width` pixels.

    Test images may be wider than all buckets. For these the widest bucket is enlarged by a quarter
    until they fit: each width costs a compilation, so there must be few of them.
    """
    fitting = [bucket for bucket in buckets if bucket >= width]
    if fitting:
        return min(fitting)
    wider = max(buckets)
    while wider < width:
        wider = -(-wider * 5 // (4 * MULTIPLE)) * MULTIPLE
    return wider


def padding_share(widths: np.ndarray, buckets: Sequence[int]) -> float:
    """Returns the share of padding when each of `widths` (N,) is padded to its bucket."""
    return 1 - widths.sum() / sum(bucket_width(int(width), buckets) for width in widths)
