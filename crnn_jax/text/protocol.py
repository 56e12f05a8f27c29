"""Scoring rules of benchmarks: which predictions match a label, and which labels are counted.

The rules for scene text, 36 characters and subsets of the labels, are those of Baek et al. 2019,
"What Is Wrong With Scene Text Recognition Model Comparisons? Dataset and Model Analysis"
(arXiv:1904.01906) and of most papers since.
"""

import re
from collections.abc import Callable

_DROPPED = re.compile("[^0-9A-Za-z]")
_CONFUSABLES = str.maketrans({"o": "0", "i": "1", "l": "1"})


def alphanumeric_match(prediction: str, reference: str) -> bool:
    """Whether both have the same digits and unaccented Latin letters, regardless of case.

    All other characters are ignored. A reference that has no others is compared as a whole,
    regardless of case; otherwise it would match every prediction without digits and letters.
    """
    wanted = _DROPPED.sub("", reference).lower()
    if not wanted:
        return prediction.casefold() == reference.casefold()
    return _DROPPED.sub("", prediction).lower() == wanted


def confusable_match(prediction: str, reference: str) -> bool:
    """Whether both are equal regardless of case, where O equals 0, and 1, l and I are equal.

    Many fonts draw these alike, and in a random text the context does not tell them apart.
    """
    first, second = (text.casefold().translate(_CONFUSABLES) for text in (prediction, reference))
    return first == second


SUBSETS: dict[str, Callable[[str], bool]] = {
    "all": lambda label: True,
    "alphanumeric": lambda label: bool(label) and not _DROPPED.search(label),
    "alphanumeric, 3 or more": lambda label: len(label) > 2 and not _DROPPED.search(label),
}
"""The subsets of labels that published results are reported on.

ICDAR 2013 has 1,095 words; the subsets have 1,095, 1,015 and 857 of them, the numbers that papers
give. ICDAR 2015 has 2,077 words. The subset of 1,811 that papers also report was chosen by looking
at the images, so it cannot be derived from the labels.
"""
