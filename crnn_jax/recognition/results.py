"""What was read in an image."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from crnn_jax.decoding import Decoding
from crnn_jax.text.alphabet import Alphabet


@dataclass(frozen=True)
class Alternative:
    """One of the texts that an image may have.

    Attributes:
      text: the text.
      probability: its probability, 0 to 1, summed over its CTC alignments, among the texts of the
        characters that are allowed. A language model changes the order of alternatives, but not
        their probabilities.
    """

    text: str
    probability: float

    @classmethod
    def of_batch(cls, decoding: Decoding, alphabet: Alphabet) -> list[tuple[Self, ...]]:
        """The alternatives of each image, the best first; none if the decoder finds one text."""
        if decoding.labels is None or decoding.label_log_probabilities is None:
            return [()] * len(decoding.path)
        probabilities = np.exp(np.asarray(decoding.label_log_probabilities)).tolist()
        texts = map(alphabet.spell, np.asarray(decoding.labels))
        return [
            tuple(cls(text, p) for text, p in zip(*of_image, strict=True) if p > 0)
            for of_image in zip(texts, probabilities, strict=True)
        ]


@dataclass(frozen=True)
class Character:
    """A character that was read.

    Attributes:
      text: the character.
      confidence: its probability, 0 to 1: the highest one among its time steps.
      start: where it begins, in pixels from the left of the image after it was turned upright
        (EXIF).
      end: where it ends. It is estimated, see `recognition.positions`.
    """

    text: str
    confidence: float
    start: float
    end: float


@dataclass(frozen=True)
class Recognition:
    """What was read in an image.

    Attributes:
      text: the text.
      confidence: how likely it is that the whole text is right, 0 to 1. It is the probability of
        the text among all texts that are allowed, and calibrated on images whose labels are known;
        see `TrainedModel.calibration`.
      characters: the characters of the text, from left to right.
      alternatives: the most likely texts, the best first, beginning with `text`; empty unless a
        beam width or a lexicon was asked for. Their probabilities are not calibrated.
    """

    text: str
    confidence: float
    characters: tuple[Character, ...] = ()
    alternatives: tuple[Alternative, ...] = ()

    def __repr__(self) -> str:
        return f"Recognition({self.text!r}, confidence={self.confidence:.3f})"


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was read in an image, and what the network said at each time step.

    Attributes:
      image: the image, upright and without transparency, in its own size.
      recognition: what was read in it.
      probabilities: (T, K) float32, the probability of each class at each time step. Class 0 is the
        blank of CTC, class k is the character k - 1 of `alphabet`.
      places: (T,), the place in the image that each time step sees in its middle, in pixels from
        the left.
      alphabet: the characters that the model knows.
    """

    image: Image.Image
    recognition: Recognition
    probabilities: np.ndarray
    places: np.ndarray
    alphabet: str
