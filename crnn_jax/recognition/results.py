"""What was read in an image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recognition:
    """What was read in an image.

    Attributes:
      text: the text.
      confidence: how likely it is that the whole text is right, 0 to 1. It is the probability of
        the text among all texts that are allowed, and calibrated on images whose labels are known;
        see `TrainedModel.calibration`.
    """

    text: str
    confidence: float

    def __repr__(self) -> str:
        return f"Recognition({self.text!r}, confidence={self.confidence:.3f})"
