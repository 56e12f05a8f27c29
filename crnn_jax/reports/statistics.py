"""The numbers of a report: from labels, texts and confidences, without images or files."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from crnn_jax.reports.schema import (
    Bin,
    Character,
    Confusion,
    Group,
    Headline,
    Kept,
    Matrix,
    Result,
    Share,
)
from crnn_jax.text.confusions import Confusions
from crnn_jax.text.metrics import TextMetrics
from crnn_jax.text.reliability import by_confidence, expected_calibration_error

T = TypeVar("T")

_Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval
MOST_GROUPS = 12  # rows of a table by length or width
MATRIX_SIZE = 30  # characters with the most mistakes
MOST_CONFUSIONS = 1_000
BINS = 10
MIN_KEPT = 20  # images; the share of right texts among fewer is mostly chance
MOST_POINTS = 200  # of a curve
TARGETS = (0.9, 0.95, 0.99, 0.999)  # shares of right texts to choose a least confidence for


def share(right: int, count: int) -> Share:
    """A share with its 95 % interval (Wilson 1927, "Probable Inference").

    Unlike the usual one it stays within [0, 1], and has a width if all or none are right.
    """
    if not count:
        return Share(0, 0, 0.0, 0.0, 1.0)
    value, z2 = right / count, _Z * _Z / count
    center = (value + z2 / 2) / (1 + z2)
    half = _Z * np.sqrt(value * (1 - value) / count + z2 / (4 * count)) / (1 + z2)
    low = 0.0 if not right else max(0.0, center - half)
    high = 1.0 if right == count else min(1.0, center + half)
    return Share(right, count, value, float(low), float(high))


def headline(results: Sequence[Result]) -> Headline:
    """The metrics of all images."""
    metrics = _metrics(results)
    computed = metrics.compute()
    return Headline(
        exact=share(metrics.exact, metrics.count),
        caseless=share(metrics.exact_caseless, metrics.count),
        alphanumeric=share(metrics.exact_alphanumeric, metrics.count),
        cer=computed["cer"],
        one_minus_ned=max(0.0, computed["one_minus_ned"]),
        unreadable=sum(result.text is None for result in results),
    )


def by_name(results: Sequence[Result], names: Iterable[str]) -> list[Group]:
    """The metrics of the results of each name, in the order in which names appear."""
    members: dict[str, list[Result]] = {}
    for name, result in zip(names, results, strict=True):
        members.setdefault(name, []).append(result)
    groups: list[Group] = []
    for name, group in members.items():
        metrics = _metrics(group)
        exact = share(metrics.exact, metrics.count)
        groups.append(Group(name, exact, metrics.compute()["cer"]))
    return groups


def by_number(results: Sequence[Result], numbers: Sequence[int]) -> list[Group]:
    """The metrics of the results of each number, in rising order.

    If there are more than MOST_GROUPS numbers, they are joined to ranges of about as many images.
    """
    order = sorted(range(len(results)), key=lambda index: numbers[index])
    values = np.asarray(numbers)[order]
    if len(np.unique(values)) <= MOST_GROUPS:
        names = [str(value) for value in values]
    else:
        shares = np.linspace(0, 1, MOST_GROUPS + 1)[1:]
        ends = np.unique(np.quantile(values, shares, method="higher"))
        places = np.searchsorted(ends, values)
        names = [
            str(inside[0]) if inside[0] == inside[-1] else f"{inside[0]} to {inside[-1]}"
            for inside in (values[places == place] for place in places)
        ]
    return by_name([results[index] for index in order], names)


def has_repeat(text: str) -> bool:
    """Whether a character follows itself, between which CTC needs a blank."""
    return any(first == second for first, second in itertools.pairwise(text))


def characters(results: Iterable[Result], counts: Confusions) -> list[Character]:
    """How each character is read, in the order of the alphabet; unreadable images are left out.

    Args:
      results: what was read.
      counts: the confusions of these results.
    """
    support: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for result in results:
        if result.text is not None:
            support.update(result.label)
            read.update(result.text)
    lost: Counter[str] = Counter()  # of the labels' characters, those that are not read
    for (written, _), count in counts.items():
        lost[written] += count
    rows: list[Character] = []
    for character in sorted(support | read):
        right = support[character] - lost[character]
        rows.append(
            Character(
                character,
                support[character],
                read[character],
                right,
                right / read[character] if read[character] else None,
                right / support[character] if support[character] else None,
            )
        )
    return rows


def most_common(counts: Confusions) -> list[Confusion]:
    """The most frequent confusions, at most MOST_CONFUSIONS."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(*pair, count) for pair, count in ordered[:MOST_CONFUSIONS]]


def matrix(rows: Sequence[Character], counts: Confusions) -> Matrix:
    """The confusion matrix of the MATRIX_SIZE characters with the most mistakes."""
    mistakes: Counter[str] = Counter()
    for (written, read), count in counts.items():
        for character in {written, read} - {""}:
            mistakes[character] += count
    chosen = ["", *sorted(character for character, _ in mistakes.most_common(MATRIX_SIZE))]
    right = {row.character: row.right for row in rows}
    return Matrix(
        chosen,
        [
            [right.get(row, 0) if row == column else counts[row, column] for column in chosen]
            for row in chosen
        ],
    )


def calibration(results: Sequence[Result]) -> tuple[list[Bin], float | None]:
    """Confidence against correctness in BINS equal ranges; unreadable images are left out.

    Returns:
      The ranges that have images; and the expected calibration error, in the finer bins of
      `expected_calibration_error`. None if nothing was read.
    """
    read = [result for result in results if result.text is not None]
    bins: list[Bin] = []
    places = [min(int(result.confidence * BINS), BINS - 1) for result in read]
    for place in range(BINS):
        inside = [result for result, own in zip(read, places, strict=True) if own == place]
        if inside:
            mean = min(1.0, sum(result.confidence for result in inside) / len(inside))
            exact = share(sum(result.right for result in inside), len(inside))
            bins.append(Bin(place / BINS, (place + 1) / BINS, mean, exact))
    if not read:
        return [], None
    confidences, right = zip(*((result.confidence, result.right) for result in read), strict=True)
    return bins, expected_calibration_error(confidences, right)


def abstain(results: Sequence[Result]) -> tuple[list[Kept], dict[str, Kept]]:
    """What remains if texts of low confidence are dropped.

    Returns:
      The curve, from the highest confidence to the lowest; and for each of TARGETS the point that
      keeps most, if one reaches it.
    """
    read = [result for result in results if result.text is not None]
    counts = by_confidence([one.confidence for one in read], [one.right for one in read])
    points = [
        Kept(confidence, kept / len(results), (kept - wrong) / kept)
        for confidence, kept, wrong in zip(*(each.tolist() for each in counts), strict=True)
    ]
    least = min(MIN_KEPT, len(read)) / max(1, len(results))
    points = [point for point in points if point.coverage >= least]
    reached: dict[str, Kept] = {}
    for target in TARGETS:
        enough = [point for point in points if point.accuracy >= target]
        if enough:
            reached[str(target)] = enough[-1]
    return thinned(points), reached


def thinned(points: Sequence[T]) -> list[T]:
    """At most MOST_POINTS of the points, evenly spaced, the first and the last included."""
    if len(points) <= MOST_POINTS:
        return list(points)
    places = np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int)
    return [points[place] for place in places]


def _metrics(results: Sequence[Result]) -> TextMetrics:
    texts = [result.text for result in results]
    return TextMetrics.from_texts(texts, [result.label for result in results])


def label_counts(labels: Sequence[str]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """How many labels there are of each length, and how often each character occurs."""
    lengths = sorted(Counter(map(len, labels)).items())
    found = Counter[str]()
    for label in labels:
        found.update(label)
    return {str(length): count for length, count in lengths}, dict(sorted(found.items()))
