"""The page of a report: one HTML file that needs nothing else."""

import base64
import functools
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rapidfuzz.distance import Levenshtein

from crnn_jax.reports import charts
from crnn_jax.reports.schema import Report, Result, Shown
from crnn_jax.text.confusions import confusions

TEMPLATES = Path(__file__).parent / "templates"
LONGEST = 300  # characters of a name or text on the page
SHOWN_CONFUSIONS = 20
FILTERED_CONFUSIONS = 100  # that images can be filtered by


@dataclass(frozen=True)
class Piece:
    """A part of a text, and whether it differs from the other text."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Card:
    """An image of the page: the label and the text in pieces, and what is wrong in words."""

    shown: Shown
    result: Result
    label: Sequence[Piece]
    text: Sequence[Piece]
    error_rate: float
    mistakes: Sequence[tuple[str, str]]


def report_page(report: Report) -> str:
    """Renders index.html."""
    cards = [make_card(shown, report.results[shown.index]) for shown in report.shown]
    wrong = sum(not result.right for result in report.results)
    listed = report.confusions[:FILTERED_CONFUSIONS]
    # Of those that an image on the page has.
    present = {pair for card in cards for pair in card.mistakes}
    return render(
        "report.html.j2",
        report=report,
        cards=cards,
        wrong=wrong,
        shown_wrong=sum(not card.result.right for card in cards),
        confusions=report.confusions[:SHOWN_CONFUSIONS],
        filters=[
            (index, one) for index, one in enumerate(listed) if (one.written, one.read) in present
        ],
        numbers={(one.written, one.read): index for index, one in enumerate(listed)},
        lengths=sorted({len(card.result.label) for card in cards}),
        reliability=charts.reliability(report.bins),
        abstain=charts.abstain_curve(report.abstain),
        learning=charts.learning(report.curves),
    )


def make_card(shown: Shown, result: Result) -> Card:
    """An image with its label and its text, compared character by character."""
    text = result.text or ""
    label_pieces: list[Piece] = []
    text_pieces: list[Piece] = []
    for edit in Levenshtein.opcodes(result.label, text):
        differs = edit.tag != "equal"
        if edit.src_end > edit.src_start:
            label_pieces.append(Piece(result.label[edit.src_start : edit.src_end], differs))
        if edit.dest_end > edit.dest_start:
            text_pieces.append(Piece(text[edit.dest_start : edit.dest_end], differs))
    error_rate = Levenshtein.distance(result.label, text) / max(1, len(result.label))
    mistakes = list(confusions([(text, result.label)]).elements())
    return Card(shown, result, label_pieces, text_pieces, error_rate, mistakes)


def render(template: str, **content: Any) -> str:
    """Renders a page of the package with its style and script inside.

    Every text is escaped. The page may load nothing and run no other script, which its policy
    forbids, so that no label can do harm.
    """
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    text = page.render(
        style=Markup(_source("page.css")),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        **content,
    )
    # Bytes of file names that are no text are surrogates, which `visible` has escaped.
    return text.encode(errors="backslashreplace").decode()


def visible(text: str, longest: int = LONGEST) -> str:
    """A text on a page, with a Python escape for each character that cannot be seen.

    These are control and format characters, which could change the order of the text around them,
    and spaces other than the usual one. The middle of a long text is left out.
    """
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 2 :]}"
    return "".join(
        character.encode("unicode_escape").decode() if _is_hidden(character) else character
        for character in text
    )


def symbol(character: str) -> str:
    """A single character on a page: a space and a combining mark can be seen as well."""
    if character == " ":
        return "␣"
    if character and unicodedata.combining(character):
        return f"◌{character}"
    if character and unicodedata.bidirectional(character) in ("R", "AL"):
        return f"\u2068{character}\u2069"  # isolated, so that the words around it stay in order
    return visible(character)


def phrase(written: str, read: str) -> str:
    """A confusion in words."""
    if not read:
        return f"{symbol(written)} left out"
    return f"{symbol(written)} as {symbol(read)}" if written else f"{symbol(read)} put in"


def percent(value: float, digits: int = 2) -> str:
    """A share in percent."""
    return f"{100 * value:.{digits}f} %"


def folder(path: str) -> str:
    """The last part of the path of a model, which is its name."""
    return Path(path).name or path


def date(text: str) -> str:
    """A date of ISO 8601 to the minute."""
    day, _, time = text.partition("T")
    return visible(f"{day} {time[:5]} UTC" if time.endswith("+00:00") else text)


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return character != " " and (category[0] in "CZ")


def _phrases(mistakes: Sequence[tuple[str, str]]) -> str:
    counted = Counter(phrase(*pair) for pair in mistakes).items()
    return ", ".join(
        text if count == 1 else f"{text} \N{MULTIPLICATION SIGN}{count}" for text, count in counted
    )


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"visible": visible, "symbol": symbol, "percent": percent, "phrases": _phrases}
    filters |= {"folder": folder, "date": date, "thousands": "{:,}".format}
    environment.filters.update(filters)
    environment.globals["phrase"] = phrase
    return environment
