"""Reading images with a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from crnn_jax.data.images import pad_batch, prepare
from crnn_jax.recognition.trained_model import BEST, TrainedModel

WIDTH_STEP = 32  # pixels; widths are rounded up to it, so that shapes, and compilations, stay few


@dataclass(frozen=True)
class Recognition:
    """What was read in an image."""

    text: str
    confidence: float  # probability of the best path, 0 to 1


class Recognizer:
    """Reads images of one line of text.

    recognizer = Recognizer.load("runs/captcha")
    recognizer([Path("a.png").read_bytes()])[0].text
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model

        def best_path(images: jax.Array, widths: jax.Array) -> tuple[jax.Array, ...]:
            outputs: Any = model.network.apply(model.variables, images, widths)
            logits, lengths = outputs
            log_probabilities = jax.nn.log_softmax(logits)
            valid = jnp.arange(logits.shape[1])[None, :] < lengths[:, None]
            score = jnp.where(valid, log_probabilities.max(-1), 0).sum(-1)
            return jnp.argmax(logits, -1), lengths, jnp.exp(score)

        self._best_path = jax.jit(best_path)

    @classmethod
    def load(cls, model: str | Path | None = None, step: int = BEST) -> Self:
        """The best model of a workdir, or the one of a step; or a pretrained model, by its name.

        Raises:
          CheckpointError: there is none, or it cannot be read.
        """
        return cls(TrainedModel.load(model, step))

    def __call__(
        self, images: Sequence[bytes], names: Sequence[str] | None = None
    ) -> list[Recognition]:
        """Reads encoded images (PNG, JPEG ...), together in one batch.

        Raises:
          DataError: an image cannot be read; it is called by its name, or by its place.
        """
        names = names or [f"image {place}" for place in range(len(images))]
        named = zip(images, names, strict=True)
        return self.read([self.prepare(image, name) for image, name in named])

    def prepare(self, image: bytes, name: str) -> np.ndarray:
        """An encoded image as the model takes it, uint8 (H, W, C).

        Raises:
          DataError: it cannot be read; it is called by its name.
        """
        return prepare(image, self.model.preprocessing, name)

    def read(self, images: Sequence[np.ndarray]) -> list[Recognition]:
        """Reads prepared images, together in one batch."""
        if not images:
            return []
        widest = max(image.shape[1] for image in images)
        batch, widths = pad_batch(images, -(-widest // WIDTH_STEP) * WIDTH_STEP)
        paths, lengths, confidences = map(np.asarray, self._best_path(batch, widths))
        texts = self.model.alphabet.decode_batch(paths, lengths)
        return [
            Recognition(text, float(confidence))
            for text, confidence in zip(texts, confidences, strict=True)
        ]
