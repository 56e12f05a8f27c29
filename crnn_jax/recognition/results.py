"""What was read in an image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


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
class Alternative:
    """A text that may be in an image.

    Attributes:
      text: the text.
      probability: that it is the text, 0 to 1, summed over all its CTC paths.
    """

    text: str
    probability: float


@dataclass(frozen=True)
class Recognition:
    """What was read in an image.

    Attributes:
      text: the text.
      confidence: how likely it is that the whole text is right, 0 to 1. It is the probability of
        the text among all texts that are allowed, and calibrated on images whose labels are known;
        see `TrainedModel.calibration`.
      characters: the characters of the text, from left to right.
      alternatives: the most likely texts, the best first; empty of decoders that find one text.
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
