"""The comparison of two reports: what changed, which images flipped, and whether it is chance."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from crnn_jax.errors import DataError
from crnn_jax.reports.page import Card, make_card, render
from crnn_jax.reports.schema import Report, Result

# What happened to an image, in the order of a page.
BROKEN, FIXED, STILL = "broken", "fixed", "still"
MOST_SHOWN = 500  # images on the page


@dataclass(frozen=True)
class Flip:
    """An image that at least one of the two reports reads wrong, otherwise than the other."""

    kind: str
    index: int
    first: Result
    second: Result
    cards: tuple[Card, Card] | None  # None if neither report has the image


@dataclass(frozen=True)
class Comparison:
    """Two reports of the same images.

    Attributes:
      first, second: the reports.
      metrics: name, value in both, and whether more is better.
      changed: settings, versions and other facts that differ: name, and value in both.
      images: N, those that both reports have.
      only_first, only_second: images that one report has.
      both_right, both_wrong: of the N images.
      fixed: how many of them the second reads right and the first does not.
      broken: the other way round.
      p_value: of McNemar's exact test, two-sided.
      flips: the images that are read differently, and not right in both.
    """

    first: Report
    second: Report
    metrics: Sequence[tuple[str, float, float, bool]]
    changed: Sequence[tuple[str, str, str]]
    images: int
    only_first: int
    only_second: int
    both_right: int
    both_wrong: int
    fixed: int
    broken: int
    p_value: float
    flips: Sequence[Flip]


def compare(first: Report, second: Report) -> Comparison:
    """Compares two reports image by image; images are found again by the bytes of their files.

    Raises:
      DataError: they have no image in common.
    """
    pairs = _pairs(first.results, second.results)
    if not pairs:
        raise DataError("the two reports have no image in common; evaluate both on the same images")
    verdicts = [(first.results[i].right, second.results[j].right) for i, j in pairs]
    fixed, broken = verdicts.count((False, True)), verdicts.count((True, False))
    return Comparison(
        first=first,
        second=second,
        metrics=_metrics(first, second),
        changed=_changed(first, second),
        images=len(pairs),
        only_first=len(first.results) - len(pairs),
        only_second=len(second.results) - len(pairs),
        both_right=verdicts.count((True, True)),
        both_wrong=verdicts.count((False, False)),
        fixed=fixed,
        broken=broken,
        p_value=mcnemar(fixed, broken),
        flips=_flips(first, second, pairs),
    )


def mcnemar(fixed: int, broken: int) -> float:
    """The p-value of McNemar's exact test, two-sided (McNemar 1947).

    If both models were equally good, an image that only one of them reads right would be either's
    with probability 1/2. Images that both read right, or both wrong, say nothing.
    """
    if not fixed + broken:
        return 1.0
    return float(binomtest(fixed, fixed + broken, 0.5).pvalue)


def verdict(comparison: Comparison) -> str:
    """The outcome in a sentence."""
    one = comparison
    if not one.fixed + one.broken:
        return "both read the same images right"
    if one.p_value >= 0.05:
        return "the difference can be chance"
    return f"{'B' if one.fixed > one.broken else 'A'} is better, and that is hardly chance"


def comparison_page(comparison: Comparison) -> str:
    """Renders the comparison as one HTML file."""
    shown = [flip for flip in comparison.flips if flip.cards][:MOST_SHOWN]
    kinds = {flip.kind for flip in shown}
    return render(
        "comparison.html.j2",
        comparison=comparison,
        verdict=verdict(comparison),
        flips=shown,
        kinds=[kind for kind in (BROKEN, FIXED, STILL) if kind in kinds],
        counts={BROKEN: comparison.broken, FIXED: comparison.fixed}
        | {STILL: sum(flip.kind == STILL for flip in comparison.flips)},
        lengths=sorted({len(flip.first.label) for flip in shown}),
    )


def _pairs(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[int, int]]:
    """The places of each image in both; equal images are matched in their order."""
    places: Mapping[str, list[int]] = defaultdict(list)
    for index, result in reversed(list(enumerate(second))):
        places[result.identity].append(index)
    return [
        (index, places[result.identity].pop())
        for index, result in enumerate(first)
        if places[result.identity]
    ]


def _flips(first: Report, second: Report, pairs: Sequence[tuple[int, int]]) -> list[Flip]:
    images = (
        {shown.index: shown for shown in first.shown},
        {shown.index: shown for shown in second.shown},
    )
    flips: list[Flip] = []
    for i, j in pairs:
        before, after = first.results[i], second.results[j]
        if before.text == after.text or (before.right and after.right):
            continue
        kind = BROKEN if before.right else FIXED if after.right else STILL
        shown = images[0].get(i) or images[1].get(j)
        cards = (make_card(shown, before), make_card(shown, after)) if shown else None
        flips.append(Flip(kind, i, before, after, cards))
    return sorted(flips, key=lambda flip: ((BROKEN, FIXED, STILL).index(flip.kind), flip.index))


def _metrics(first: Report, second: Report) -> list[tuple[str, float, float, bool]]:
    a, b = first.headline, second.headline
    rows = [
        ("Exact match", a.exact.value, b.exact.value, True),
        ("Without regard to case", a.caseless.value, b.caseless.value, True),
        ("Digits and letters only", a.alphanumeric.value, b.alphanumeric.value, True),
        ("CER", a.cer, b.cer, False),
        ("1 - NED", a.one_minus_ned, b.one_minus_ned, True),
    ]
    if first.calibration_error is not None and second.calibration_error is not None:
        rows.append(("Calibration error", first.calibration_error, second.calibration_error, False))
    return rows


def _changed(first: Report, second: Report) -> list[tuple[str, str, str]]:
    # The settings of a pretrained model are not known, so they cannot be compared.
    known = bool(first.model.settings and second.model.settings)
    facts = (_facts(first, known), _facts(second, known))
    names = dict.fromkeys((*facts[0], *facts[1]))
    pairs = ((name, facts[0].get(name, ""), facts[1].get(name, "")) for name in names)
    return [pair for pair in pairs if pair[1] != pair[2]]


def _facts(report: Report, with_settings: bool) -> dict[str, str]:
    model, run = report.model, report.run
    facts = {
        "model": model.name,
        "step": model.step,
        "network": model.network,
        "parameters": model.parameters,
        "characters": model.characters,
        "images": f"{report.split} of {report.images}",
        "trained on": model.trained_on,
        "machine": run.machine,
        **{f"preprocessing.{name}": value for name, value in model.preprocessing.items()},
        **{f"--{name}": value for name, value in run.options.items()},
        **{f"version of {name}": value for name, value in run.versions.items()},
        **(model.settings if with_settings else {}),
    }
    return {name: str(value) for name, value in facts.items()}
