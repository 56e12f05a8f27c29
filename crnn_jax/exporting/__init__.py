"""Trained models in the forms of other programs, each with a proof that it reads the same.

A `Format` writes a folder and reads with it. `writing.export` runs what was written on real images
before the folder gets its name; if a text differs, nothing is left of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from crnn_jax.recognition.trained_model import TrainedModel


@dataclass(frozen=True, eq=False)
class Outputs:
    """What an exported model says about B images of one size.

    Attributes:
      classes: (B, T) int32, the class of each time step on the path that is read; blanks after the
        valid time steps.
      lengths: (B,) int32, the valid time steps.
      log_probabilities: (B, T) float32, those of the classes, as natural logarithms.
      confidence: (B,) float32, how likely the text is right; see `Recognition.confidence`.
      logits: (B, T, K) float32.
    """

    classes: np.ndarray
    lengths: np.ndarray
    log_probabilities: np.ndarray
    confidence: np.ndarray
    logits: np.ndarray


Reader = Callable[[np.ndarray], Outputs]
"""Reads images (B, H, W, 3 or 1) uint8 of any size, all of one size, as people have them."""


class Format(Protocol):
    """A form of a model.

    Attributes:
      name: what --format says.
      tolerance: the largest difference of the logits from those of JAX, as a share of the largest
        logit of the image; None if the format rounds parameters, and is judged by the share of the
        texts that are right.
    """

    name: str
    tolerance: float | None

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        """Writes the files of the model into a folder that exists and is empty.

        Args:
          model: the model.
          folder: where to.
          images: some images that it was trained on, uint8 (H, W, C), decoded but not resized, for
            formats that choose ranges of values; may be empty.

        Raises:
          ConfigError: the runtime is not installed, or the model has something that the format
            cannot express.
        """
        ...

    def load(self, folder: Path) -> Reader:
        """Loads what `write` wrote with the runtime of the format alone."""
        ...
