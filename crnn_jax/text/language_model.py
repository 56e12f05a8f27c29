"""How likely a text is in a language: an automaton with weights."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """The probabilities of the characters of a text, one after the other, over a model's classes.

    Attributes:
        following: (Q, K) int32, the state after each class in each state. The start is state 0. The
            column of the blank is not used.
        log_probabilities: (Q, K) float32, natural logarithms of the probability of each class in
            each state.
        end: (Q,) float32, that of the text's end in each state.
    """

    following: np.ndarray
    log_probabilities: np.ndarray
    end: np.ndarray
