"""Reading with JAX: the network and the decoder as compiled programs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from crnn_jax.compiler import configure_jax
from crnn_jax.decoding import Decoder, Decoding, with_step_probabilities
from crnn_jax.recognition.backends import Reading
from crnn_jax.recognition.batches import Batch, in_few_shapes
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.training import parallel


class JaxBackend:
    """See `backends.Backend`."""

    def __init__(self, model: TrainedModel, decoder: Decoder) -> None:
        configure_jax()
        parallel.local_devices()  # raises a clear error if JAX has none
        self._model = model
        self._decoder = decoder
        self._variables = jax.device_put(model.variables)

    def read(self, images: Sequence[np.ndarray], batch_size: int) -> Iterator[Reading]:
        """See `backends.Backend`."""
        begun: list[tuple[int, jax.Array, Decoding]] = []
        for batch, logits, lengths in self._apply(images, batch_size):
            begun.append((batch.size, lengths, decode(self._decoder, logits, lengths)))
        # The batches are computed one after another, while the next one is padded and the results
        # of the last one become texts.
        for count, lengths, decoding in begun:
            yield to_reading(count, lengths, decoding, self._model.calibration)

    def logits(
        self, images: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `backends.Backend`."""
        for batch, logits, lengths in self._apply(images, batch_size):
            yield np.asarray(logits)[: batch.size], np.asarray(lengths)[: batch.size]

    def _apply(
        self, images: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[tuple[Batch, jax.Array, jax.Array]]:
        """Begins to apply the network to images, and does not wait."""
        model = self._model
        for batch in in_few_shapes(images, batch_size, model.preprocessing.width):
            outputs = apply_network(model.network, self._variables, batch.images, batch.widths)
            yield batch, *outputs


# The network and the decoder are separate programs, so that a model is compiled once for all ways
# of decoding. The variables are arguments, so all models of one shape share a program. As
# constants they would also be a part of it, and loading it would take seven times as long.
@partial(jax.jit, static_argnames="network")
def apply_network(
    network: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array | np.ndarray,
    widths: jax.Array | np.ndarray,
) -> tuple[jax.Array, jax.Array]:
    """Applies a network to a batch of images.

    Args:
      network: the network; a static argument.
      variables: its params and batch_stats.
      images: (B, H, W, C) uint8.
      widths: (B,) true widths in pixels.

    Returns:
      The logits (B, T, K) and the valid time steps (B,).
    """
    outputs: Any = network.apply(variables, images, widths)
    return outputs


@jax.jit
def decode(decoder: Decoder, logits: jax.Array, lengths: jax.Array) -> Decoding:
    """Decodes the logits of a batch, with the probabilities of the time steps."""
    return with_step_probabilities(decoder(logits, lengths), logits)


def to_reading(
    count: int, lengths: jax.Array | np.ndarray, decoding: Decoding, calibration: Calibration
) -> Reading:
    """Returns what a decoder has read, once it is computed."""
    probabilities = np.exp(np.asarray(decoding.log_share, float))
    found: list[Any] = [decoding.labels, decoding.label_log_probabilities]
    return Reading(
        count,
        np.asarray(lengths),
        np.asarray(decoding.path),
        np.asarray(decoding.step_probabilities),
        calibration.confidence(probabilities),
        *(None if array is None else np.asarray(array) for array in found),
    )
