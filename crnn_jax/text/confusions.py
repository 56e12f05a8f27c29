"""Confusions: which characters are read as which others."""

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from rapidfuzz.distance import Levenshtein

Confusions: TypeAlias = Counter[tuple[str, str]]
"""How often a character of a label was read as another: (written, read) -> count.

An empty `read` is a character that was left out, an empty `written` one that was inserted.
"""


def confusions(pairs: Iterable[tuple[str, str]]) -> Confusions:
    """Counts the edits of a shortest edit script for each pair (prediction, reference)."""
    return Counter(
        (
            reference[edit.src_pos] if edit.tag != "insert" else "",
            prediction[edit.dest_pos] if edit.tag != "delete" else "",
        )
        for prediction, reference in pairs
        for edit in Levenshtein.editops(reference, prediction)
    )


def describe(counts: Confusions, most: int) -> str:
    """The `most` common confusions, such as "0 as o 31, l left out 4, a put in 2"."""
    return ", ".join(
        f"{_phrase(written, read)} {count:,}" for (written, read), count in counts.most_common(most)
    )


def _phrase(written: str, read: str) -> str:
    if not read:
        return f"{written} left out"
    return f"{written} as {read}" if written else f"{read} put in"
