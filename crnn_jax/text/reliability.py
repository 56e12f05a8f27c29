"""How far confidences can be trusted: calibration error, Brier score, and what abstaining gains."""

import numpy as np
from numpy.typing import ArrayLike

BINS = 15

# The limits of probabilities whose log odds are taken.
LEAST = 1e-300  # so that logarithms are finite
MOST = 1 - 1e-5  # a sum over time steps in single precision says no more


def expected_calibration_error(confidences: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """Returns by how much confidence and accuracy differ, on average over all texts.

    Texts are put into bins of equal width by their confidence. In each bin the mean confidence is
    compared with the share of right texts; a bin counts as much as it has texts (Guo et al. 2017,
    "On Calibration of Modern Neural Networks", equation 3). With few texts it is above 0 by chance
    alone; see `chance_calibration_error`.

    Args:
        confidences: (N,), 0 to 1.
        right: (N,) bool.
        bins: their number.
    """
    confidences, hits = np.asarray(confidences, float), np.asarray(right, float)
    # The upper edge of a bin belongs to it, as in the paper.
    places = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, confidences - hits, bins)
    return float(np.abs(gaps).sum() / max(len(hits), 1))


def chance_calibration_error(
    confidences: ArrayLike, bins: int = BINS, draws: int = 1000, seed: int = 0
) -> float:
    """Returns the expected calibration error that perfect confidences would have on N texts.

    It is the mean over `draws` draws of which texts are right, each with its confidence.

    Args:
        confidences: (N,), 0 to 1.
        bins: as in `expected_calibration_error`.
        draws: their number.
        seed: of the draws.
    """
    confidences, rng = np.asarray(confidences, float), np.random.default_rng(seed)
    drawn = (rng.random(len(confidences)) < confidences for _ in range(draws))
    return float(np.mean([expected_calibration_error(confidences, hits, bins) for hits in drawn]))


def brier_score(confidences: ArrayLike, right: ArrayLike) -> float:
    """Returns the mean squared difference of confidence and outcome (Brier 1950)."""
    return float(np.mean((np.asarray(confidences, float) - np.asarray(right, float)) ** 2))


def risk_coverage(confidences: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the abstain curve: how many texts are wrong if only the most confident are kept.

    Texts of equal confidence are kept or left out together, so there is a point for each of the M
    different confidences (El-Yaniv and Wiener 2010).

    Returns:
        The share of texts that are kept, (M,), rising to 1, and the share of these that are wrong,
        (M,).
    """
    _, kept, wrong = by_confidence(confidences, right)
    return kept / max(len(np.asarray(right)), 1), wrong / kept


def threshold(confidences: ArrayLike, right: ArrayLike, target: float) -> float | None:
    """Returns the least confidence from which on a share `target` of the texts is right.

    One wrong text is counted in addition to those among the K texts that are kept, as the next text
    may be wrong, too: (wrong + 1) / (K + 1) must be at most 1 - target (the rule of succession). So
    for 99 % there must be at least 99 texts, all of them right. None if no threshold will do.
    """
    found, kept, wrong = by_confidence(confidences, right)
    # Multiplied out, and with room for the rounding of 1 - target.
    suffices = np.flatnonzero(wrong + 1 <= (1 - target) * (kept + 1) + 1e-9)
    return float(found[suffices[-1]]) if len(suffices) else None


def by_confidence(
    confidences: ArrayLike, right: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts the texts at or above each of the M different confidences.

    Returns:
        The confidences (M,), falling; how many texts have at least that, (M,); and how many of
        these are wrong, (M,).
    """
    values, places = np.unique(-np.asarray(confidences, float), return_inverse=True)
    kept = np.cumsum(np.bincount(places, minlength=len(values)))
    wrong = np.cumsum(np.bincount(places, ~np.asarray(right, bool), len(values)))
    return -values, kept, wrong
