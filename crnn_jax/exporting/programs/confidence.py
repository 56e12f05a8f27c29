"""How likely a text is right that was read in an image; in NumPy."""

import numpy as np


def confidence(logits: np.ndarray, text: list[int], model: dict) -> float:
    """The share of a text (its classes) of all that could be read, by Bayes' rule, calibrated."""
    p = np.exp(logits - logits.max(1, keepdims=True).astype(float))
    p /= p.sum(1, keepdims=True)
    likely = of_text(p, text)
    own = every = 0.0
    for classes, prior, of_each in model["sets"]:
        every += np.exp(prior) * of_all(p[:, classes], np.exp(of_each))
        if set(text) <= set(classes):
            own += np.exp(prior + of_each * len(text)) * likely
    if not own:
        return 0.0
    share = np.clip(own / every, 1e-300, 1 - 1e-5)
    intercept, slope = (model["calibration"][name] for name in ("intercept", "slope"))
    return float(1 / (1 + np.exp(-intercept) * (1 / share - 1) ** slope))


def of_text(p: np.ndarray, text: list[int]) -> float:
    """The probability of a text: of all its alignments (Graves et al. 2006, section 4.1)."""
    states = np.array([0, *(k for character in text for k in (character, 0))])
    skips = np.append([False, False], states[2:] != states[:-2])[: len(states)]
    sums = np.pad([1.0], (2, 2 * len(text)))  # two more, which are before the first state
    for step in p:
        sums[2:] = (sums[2:] + sums[1:-1] + skips * sums[:-2]) * step[states]
    return sums[-2:].sum()


def of_all(p: np.ndarray, weight: float) -> float:
    """The probability of all texts of some classes, times the weight for each character."""
    ends = np.eye(1, p.shape[1])[0]  # by the class of the last time step; at first, the blank
    for step in p:
        total = ends.sum()
        ends = step * (ends + weight * (total - ends))
        ends[0] = step[0] * total
    return ends.sum()
