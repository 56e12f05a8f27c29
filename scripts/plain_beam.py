"""CTC prefix beam search in plain Python, as in the literature: a dictionary of prefixes."""

import math
from collections.abc import Sequence


def plain_beam(
    log_probabilities: Sequence[Sequence[float]], width: int, blank: int = 0
) -> list[tuple[tuple[int, ...], float]]:
    """Returns the most likely texts of one image, the best first.

    This is algorithm 1 of Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech
    Recognition using Bi-Directional Recurrent DNNs", without its language model, in logarithms.

    Args:
      log_probabilities: of each class in each time step.
      width: the number of prefixes that are kept at each time step.
      blank: the class of the blank.

    Returns:
      The classes of at most `width` texts, and the logarithms of their probabilities.
    """
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probabilities:
        after: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (ends_blank, ends_character) in beam.items():
            total = add(ends_blank, ends_character)
            last = prefix[-1] if prefix else blank
            own = after.get(prefix, (-math.inf, -math.inf))
            repeats = add(own[1], ends_character + frame[last]) if prefix else own[1]
            after[prefix] = (add(own[0], total + frame[blank]), repeats)
            for class_, log_probability in enumerate(frame):
                before = ends_blank if class_ == last else total
                if class_ != blank and before + log_probability > -math.inf:
                    longer = (*prefix, class_)
                    old = after.get(longer, (-math.inf, -math.inf))
                    after[longer] = (old[0], add(old[1], before + log_probability))
        best = sorted(after, key=lambda prefix: -add(*after[prefix]))[:width]
        beam = {prefix: after[prefix] for prefix in best}
    return [(prefix, add(*both)) for prefix, both in beam.items()]


def add(first: float, second: float) -> float:
    """The logarithm of the sum of two numbers, from their logarithms."""
    larger, smaller = max(first, second), min(first, second)
    return larger if smaller == -math.inf else larger + math.log1p(math.exp(smaller - larger))
