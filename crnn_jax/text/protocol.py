"""What counts as right besides the exact text, and on which labels.

How scene-text benchmarks are scored, on 36 characters and on all labels or part of them, is as
Baek et al. 2019, "What Is Wrong With Scene Text Recognition Model Comparisons? Dataset and Model
Analysis" (arXiv:1904.01906) count, and most papers since.
"""

import re
from collections.abc import Callable

_DROPPED = re.compile("[^0-9A-Za-z]")
_CONFUSABLES = str.maketrans({"o": "0", "i": "1", "l": "1"})


def alphanumeric_match(prediction: str, reference: str) -> bool:
    """Whether both have the same digits and Latin letters, in upper or lower case.

    All else is dropped from both: accents, punctuation, spaces. A reference of which nothing would
    be left is compared whole instead, caseless, lest it match whatever else has nothing left.
    """
    wanted = _DROPPED.sub("", reference).lower()
    if not wanted:
        return prediction.casefold() == reference.casefold()
    return _DROPPED.sub("", prediction).lower() == wanted


def confusable_match(prediction: str, reference: str) -> bool:
    """Whether both are the same, caseless, to an eye that cannot tell O from 0, nor 1, l and I.

    In many faces these are drawn alike, and a random text does not say which one is meant.
    """
    first, second = (text.casefold().translate(_CONFUSABLES) for text in (prediction, reference))
    return first == second


SUBSETS: dict[str, Callable[[str], bool]] = {
    "all": lambda label: True,
    "alphanumeric": lambda label: bool(label) and not _DROPPED.search(label),
    "alphanumeric, 3 or more": lambda label: len(label) > 2 and not _DROPPED.search(label),
}
"""Which labels a published results is on.

Of the 1,095 words of ICDAR 2013 they leave 1,095, 1,015 and 857, the numbers in papers. The 2,077
words of ICDAR 2015 are all of them; the 1,811 also given for it were picked by how the images
look, so that labels cannot tell which they are.
"""
