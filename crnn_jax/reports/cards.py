"""The card of a model: the README.md of a workdir, in the sections that model cards have."""

from collections import Counter

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from crnn_jax.reports.page import TEMPLATES, date, folder, visible
from crnn_jax.reports.schema import Report, Split

MARKER = (
    "<!-- Written by crnn_jax after each training run. Delete this line to keep your changes. -->"
)
FEW = 20  # training examples of a character, below which the card warns of it
LISTED = 40  # characters in a list
LOW_RECALL, MIN_SUPPORT = 0.8, 5


def model_card(report: Report) -> str:
    """Renders the card of a model from the report of its training run.

    The sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting"
    (arXiv:1810.03993), and the headings those of model cards on the Hugging Face Hub.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701  # Markdown; `code` and `cell` escape it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(code=code, cell=cell, spread=spread, folder=folder, date=date)
    trained = report.splits["train"]
    return environment.get_template("card.md.j2").render(
        report=report,
        marker=MARKER,
        trained=trained,
        limits=limits(report),
        rarest=sorted(trained.characters.items(), key=lambda item: item[1])[:LISTED],
        commonest=Counter(trained.characters).most_common(LISTED),
    )


def is_ours(card: str) -> bool:
    """Whether a README.md is one that may be replaced."""
    return MARKER in card


def limits(report: Report) -> list[str]:
    """What the model cannot be expected to do, from the facts of its training and its test."""
    trained, model = report.splits["train"], report.model
    lengths = [int(length) for length in trained.lengths if int(length)]
    found = [
        f"It writes {len(model.characters):,} characters and no others. A text with another"
        " character is always read wrong."
    ]
    if model.ignore_case:
        found.append("It writes all letters in lower case.")
    if lengths:
        found.append(
            f"Its training texts have {spread(trained)} characters. Shorter and longer texts are"
            " likely to be read less well."
        )
    absent = [one for one in model.characters if not trained.characters.get(one)]
    if absent:
        found.append(f"No training text has {_listed(absent)}.")
    few = [one for one in model.characters if 0 < trained.characters.get(one, 0) < FEW]
    if few:
        found.append(f"Fewer than {FEW} examples were seen of {_listed(few)}.")
    low = [
        row.character
        for row in report.characters
        if row.support >= MIN_SUPPORT and row.recall is not None and row.recall < LOW_RECALL
    ]
    if low:
        found.append(
            f"On the test images fewer than {100 * LOW_RECALL:.0f} % are read right of"
            f" {_listed(low)}."
        )
    if report.calibration_error is not None:
        found.append(
            "On average the confidence is"
            f" {100 * report.calibration_error:.1f} points away from the share of texts that are"
            " right, on these test images. On images of another kind it can be further away."
        )
    if report.headline.exact.count < 500:
        found.append(
            f"It was tested on {report.headline.exact.count:,} images, so the interval is wide."
        )
    found.append("It reads any image as one line of text, also one with several lines or none.")
    return found


def spread(split: Split) -> str:
    """The least and the greatest length of labels."""
    lengths = [int(length) for length in split.lengths]
    if not lengths:
        return "no"
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low} to {high}"


def code(text: object) -> str:
    """A text as inline code of Markdown, whatever it contains."""
    shown = visible(str(text))
    if not shown.strip():
        return "" if not shown else "a space"
    ticks = "`"
    while ticks in shown:
        ticks += "`"
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def cell(text: object) -> str:
    """Inline code in a table, where a bar would end the cell even so."""
    return code(text).replace("|", "\\|")


def _listed(characters: list[str]) -> str:
    shown = " ".join(code(character) for character in characters[:LISTED])
    rest = len(characters) - LISTED
    return f"{shown} and {rest:,} more" if rest > 0 else shown
