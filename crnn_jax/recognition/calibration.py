"""Calibration: how often texts are right to which a model gives a certain probability."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from crnn_jax.errors import ConfigError
from crnn_jax.text.reliability import LEAST, MOST, threshold

MIN_IMAGES = 100
"""Images that a calibration is fitted on, at least; with fewer the probability itself is better."""
MIN_OF_EACH = 5
"""Texts that are right, and texts that are wrong, among them."""
PULL = 3.0
"""How strongly the fit is drawn to the probability itself: half of it times the squared change of
either weight is added to the sum of the images' losses. It is the best of 0.3, 1 and 3, both for 60
and for 300 images, on six sets that the pretrained model had not seen."""
TARGET = 0.99
"""The share of accepted texts that is to be right."""

_UNLIKELY = 1e-9  # texts less likely than that tell a fit no more


@dataclass(frozen=True)
class Calibration:
    """A logistic model of one feature, the log odds of the text's probability (Platt 1999).

    The probability is `Decoding.log_posterior`: of the text among all that may be read, summed over
    all alignments. The entropy of the time steps, the least certain character, the number of
    characters and the distance to the next path added nothing on styles that were not fitted.

    Attributes:
      intercept, slope: log odds of being right = intercept + slope * log odds of the probability.
        The default is the probability itself.
      min_confidence: the least confidence with which `TARGET` of the texts are right; None if it
        was not reached. See `text.reliability.threshold`.
      images: the number of images that it was fitted on; 0 if it was not.
      right: how many of their texts were right.
    """

    intercept: float = 0.0
    slope: float = 1.0
    min_confidence: float | None = None
    images: int = 0
    right: int = 0

    @classmethod
    def fit(cls, probabilities: ArrayLike, right: ArrayLike) -> Self:
        """Fits a calibration on N images whose labels are known.

        With fewer than `MIN_IMAGES`, or fewer than `MIN_OF_EACH` texts that are right or wrong, the
        probability stays as it is. `min_confidence` is then still found.

        Args:
          probabilities: (N,), 0 to 1.
          right: (N,) bool, whether the text is that of the label.
        """
        odds = _log_odds(np.maximum(probabilities, _UNLIKELY))
        target = np.asarray(right, float)
        count, hits = len(target), int(target.sum())
        fitted = cls(images=count, right=hits)
        if count >= MIN_IMAGES and MIN_OF_EACH <= hits <= count - MIN_OF_EACH:
            fitted = cls(*_logistic(odds, target), images=count, right=hits)
        found = threshold(fitted.confidence(probabilities), target > 0, TARGET)
        return cls(fitted.intercept, fitted.slope, found, count, hits)

    def confidence(self, probabilities: ArrayLike) -> np.ndarray:
        """Returns how likely it is that a text of each probability is right."""
        probabilities = np.asarray(probabilities, float)
        odds = self.intercept + self.slope * _log_odds(probabilities)
        # A text that cannot be has no confidence, whatever the others have.
        return np.where(probabilities > 0, np.exp(-np.logaddexp(0, -odds)), 0.0)

    def threshold(self, wanted: str) -> float:
        """Returns the least confidence that `wanted` asks for: a number, or "auto".

        Raises:
          ConfigError: it is neither, or no `min_confidence` is known.
        """
        if wanted != "auto":
            try:
                number = float(wanted)
            except ValueError:
                number = -1.0
            if not 0 <= number <= 1:
                raise ConfigError(f"{wanted!r} is no confidence; write auto, or a number, as 0.9")
            return number
        if self.min_confidence is None:
            raise ConfigError(
                f"the model has no confidence from which on {TARGET:.0%} of its texts are right, as"
                f" it was validated on {self.images:,} images; write a number, such as 0.9"
            )
        return self.min_confidence

    def to_dict(self) -> dict[str, Any]:
        """Returns it for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any] | None) -> Self:
        """Restores it from a manifest; None is that of models that were saved without one."""
        return cls(**saved) if saved else cls()


def _log_odds(probabilities: ArrayLike) -> np.ndarray:
    clipped = np.clip(np.asarray(probabilities, float), LEAST, MOST)
    return np.log(clipped) - np.log1p(-clipped)


def _logistic(odds: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The intercept and slope with the least loss, which is convex."""
    from scipy.optimize import minimize  # here, because importing it takes a while

    features = np.stack([np.ones_like(odds), odds])
    unchanged = np.array([0.0, 1.0])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores, change = weights @ features, weights - unchanged
        value = (np.logaddexp(0, scores) - right * scores).sum() + PULL / 2 * (change**2).sum()
        slopes = features @ (np.exp(-np.logaddexp(0, -scores)) - right)
        return value, slopes + PULL * change

    # A slope that is not positive would order texts by how improbable they are.
    found = minimize(loss, unchanged, jac=True, method="L-BFGS-B", bounds=((-20, 20), (0.05, 20)))
    intercept, slope = found.x.tolist()
    return intercept, slope
