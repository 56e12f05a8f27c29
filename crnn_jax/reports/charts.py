"""The charts of a page: where lines and labels are, in the units of the drawing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crnn_jax.reports.schema import Bin, Curve, Kept

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 46  # margins around the plot
TABLE_ROWS = 12  # of the table beside a chart

Points: TypeAlias = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name, its points as in an SVG polyline, and whether it has dots."""

    name: str
    path: str
    dots: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """A chart.

    `x_ticks` and `y_ticks` have positions and labels. `header` and `rows` are the table that says
    the same.
    """

    identity: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    diagonal: bool = False  # from the lower left to the upper right
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def reliability(bins: Sequence[Bin]) -> Chart:
    """Share of right texts against confidence; calibrated confidence is on the diagonal."""
    points = [(one.confidence, one.exact.value) for one in bins]
    return _chart(
        ("reliability", "Confidence and share of right texts"),
        "Each dot is the images of a tenth of the range. On the diagonal confidence is what it"
        " says; above it the model is too modest, below it too sure.",
        ("confidence", "right"),
        ([0, 1], [0, 1]),
        {"images of a range": points},
        ("Confidence", "Images", "Mean confidence", "Right"),
        [
            (
                f"{_percent(one.low)} to {_percent(one.high)}",
                f"{one.exact.count:,}",
                _percent(one.confidence),
                _percent(one.exact.value),
            )
            for one in bins
        ],
        percent=(True, True),
        dots=True,
        diagonal=True,
    )


def abstain_curve(kept: Sequence[Kept]) -> Chart:
    """Share of right texts against the share of images that are kept."""
    lowest = min((point.accuracy for point in kept), default=0.0)
    return _chart(
        ("abstain", "What remains right if doubtful texts are dropped"),
        "From left to right more texts are kept, those of the highest confidence first.",
        ("kept images", "right"),
        ([0, 1], [_floor(lowest), 1]),
        {"kept": [(point.coverage, point.accuracy) for point in kept]},
        ("Least confidence", "Kept", "Right"),
        [
            (f"{point.confidence:.4f}", _percent(point.coverage), _percent(point.accuracy))
            for point in _some(kept)
        ],
        percent=(True, True),
    )


def learning(curves: Iterable[Curve]) -> list[Chart]:
    """Losses, exact match and CER of the training and validation images against the step."""
    by_metric: dict[str, dict[str, Curve]] = {}
    for curve in curves:
        by_metric.setdefault(curve.metric, {})[curve.split] = curve
    titles = {
        "loss": ("Loss", "CTC loss in nats"),
        "exact_match": ("Exact match", "share of validation images that are read right"),
        "cer": ("Character error rate", "edits per character of the validation labels"),
    }
    charts: list[Chart] = []
    for metric in (name for name in titles if name in by_metric):
        of_splits = by_metric[metric]
        values = [value for curve in of_splits.values() for _, value in curve.points]
        steps = [step for curve in of_splits.values() for step, _ in curve.points]
        top = 1.0 if metric == "exact_match" else max(values)
        title, description = titles[metric]
        charts.append(
            _chart(
                (f"learning-{metric.replace('_', '-')}", title),
                f"{description[0].upper()}{description[1:]}, over the steps of the training.",
                ("step", ""),
                ([0, max(steps)], [0, top]),
                {split: curve.points for split, curve in of_splits.items()},
                ("Split", "Step", title),
                [
                    (split, f"{step:,}", f"{value:.4g}" if metric == "loss" else _percent(value))
                    for split, curve in of_splits.items()
                    for step, value in _some(curve.points)
                ],
                percent=(False, metric != "loss"),
            )
        )
    return charts


def _chart(
    named: tuple[str, str],
    description: str,
    labels: tuple[str, str],
    limits: tuple[Sequence[float], Sequence[float]],
    lines: dict[str, Points],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    percent: tuple[bool, bool],
    dots: bool = False,
    diagonal: bool = False,
) -> Chart:
    x_values, y_values = (_ticks(*limit) for limit in limits)
    (x_low, x_high), (y_low, y_high) = ((values[0], values[-1]) for values in (x_values, y_values))

    def x_at(value: float) -> float:
        return round(LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y_at(value: float) -> float:
        share = (value - y_low) / (y_high - y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    placed = {name: [(x_at(x), y_at(y)) for x, y in points] for name, points in lines.items()}
    return Chart(
        *named,
        description,
        *labels,
        [(x_at(value), _label(value, percent[0])) for value in x_values],
        [(y_at(value), _label(value, percent[1])) for value in y_values],
        [
            Line(
                name,
                " ".join(f"{x},{y}" for x, y in points),
                points if dots or len(points) == 1 else (),
            )
            for name, points in placed.items()
        ],
        header,
        rows,
        diagonal,
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers in steps of 1, 2 or 5, which enclose the range."""
    span = high - low if high > low else abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _floor(value: float) -> float:
    """The start of an axis of shares: a multiple of a tenth, so that small changes are seen."""
    return min(0.9, math.floor(value * 10) / 10)


def _label(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.4g} %"
    return f"{value:,.0f}" if value >= 1_000 else f"{value:g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _some(points: Sequence) -> Sequence:
    """Evenly spaced points for a table, the first and the last included."""
    if len(points) <= TABLE_ROWS:
        return points
    last = len(points) - 1
    return [points[round(place * last / (TABLE_ROWS - 1))] for place in range(TABLE_ROWS)]
