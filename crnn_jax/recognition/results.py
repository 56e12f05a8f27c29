"""What was read in an image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recognition:
    """What was read in an image.

    Attributes:
      text: the text.
      confidence: the probability of the CTC path that was read, 0 to 1, among the paths of the
        characters that were allowed. It is that of the whole text, so it falls with its length.
    """

    text: str
    confidence: float

    def __repr__(self) -> str:
        return f"Recognition({self.text!r}, confidence={self.confidence:.3f})"
