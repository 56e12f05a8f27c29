"""Reading with onnxruntime: the network and the default decoding are one graph; without JAX."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from crnn_jax.recognition.backends import Reading
from crnn_jax.recognition.batches import Batch, in_few_shapes, in_tight_shapes
from crnn_jax.recognition.graph_cache import graph_of
from crnn_jax.recognition.trained_model import TrainedModel

if TYPE_CHECKING:
    from crnn_jax.decoding import Decoder

READ = ("classes", "lengths", "log_probabilities", "confidence")
LOGITS = ("logits", "lengths")
ERRORS = 3  # the least severe messages that onnxruntime prints


class OnnxBackend:
    """See `backends.Backend`. With a decoder, which is one of JAX, the graph gives the logits."""

    def __init__(self, model: TrainedModel, decoder: "Decoder | None" = None) -> None:
        self._model = model
        self._decoder = decoder
        self._session = start_session(graph_of(model))

    def read(self, images: Sequence[np.ndarray], batch_size: int) -> Iterator[Reading]:
        """See `backends.Backend`."""
        if self._decoder is not None:
            yield from self._decoded(self._decoder, images, batch_size)
            return
        for batch in in_tight_shapes(images, batch_size):
            path, lengths, log_probabilities, confidences = self._run(READ, batch)
            yield Reading(batch.size, lengths, path, np.exp(log_probabilities), confidences)

    def logits(
        self, images: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `backends.Backend`."""
        for batch, logits, lengths in self._logits(images, batch_size):
            yield logits[: batch.size], lengths[: batch.size]

    def _decoded(
        self, decoder: "Decoder", images: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[Reading]:
        from crnn_jax.recognition.jax_backend import decode, to_reading

        for batch, logits, lengths in self._logits(images, batch_size):
            decoding = decode(decoder, logits, lengths)
            yield to_reading(batch.size, lengths, decoding, self._model.calibration)

    def _logits(
        self, images: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
        """The logits of batches, in few shapes, as programs of JAX go on with them."""
        for batch in in_few_shapes(images, batch_size, self._model.preprocessing.width):
            yield batch, *self._run(LOGITS, batch)

    def _run(self, outputs: Sequence[str], batch: Batch) -> Sequence[Any]:
        return self._session.run(outputs, {"images": batch.images, "widths": batch.widths})


def start_session(graph: bytes) -> onnxruntime.InferenceSession:
    """Returns a session that computes on all cores that this process may use."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS
    # By default there is a thread for each core of the machine, also for those that this process
    # may not use.
    options.intra_op_num_threads = _usable_cores()
    # Threads spin while a batch is read, which takes a fifth of the time off a single image on an
    # idle machine, and not after it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
