"""Evaluation: a model reads a whole split, and its texts are compared with the labels."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crnn_jax.data.batching import evaluation_batches
from crnn_jax.data.prepared import PreparedSplit, device_arrays
from crnn_jax.decoding import Decoder
from crnn_jax.decoding.paths import BestPath
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.confusions import Confusions, confusions
from crnn_jax.text.metrics import TextMetrics
from crnn_jax.text.reliability import expected_calibration_error
from crnn_jax.training import parallel
from crnn_jax.training.losses import ctc_loss
from crnn_jax.training.parallel import Devices

# Metrics that each part of a mixture has as well.
OF_PARTS = ("exact_match", "exact_match_caseless", "cer")
EvalStep = Callable[[Any, Any], dict[str, jax.Array]]


@dataclass(frozen=True)
class Evaluation:
    """How a model reads a split of N images.

    Attributes:
      metrics: see `TextMetrics`.
      texts: the N texts; None for images that are missing.
      confidences: (N,), how likely each text is right; 0 for images that are missing.
      confusions: of the images that are not missing.
      right: (N,) bool, whether each text is that of the label.
      probabilities: (N,), those of the texts, of which the calibration makes the confidences.
      path_probabilities: (N,), those of the most likely paths of the texts alone.
      calibration: that of the confidences.
    """

    metrics: dict[str, float]
    texts: list[str | None]
    confidences: np.ndarray
    confusions: Confusions
    right: np.ndarray
    probabilities: np.ndarray
    path_probabilities: np.ndarray
    calibration: Calibration


def make_eval_step(
    model: nn.Module, devices: Devices = None, decoder: Decoder | None = None
) -> EvalStep:
    """A pmapped function of replicated variables and a sharded batch.

    It returns for each sample: the path that `decoder` finds, by default the best one (B, T), its
    log probability (B,) and that of its text (B,), the number of time steps (B,), the CTC loss
    (B,), and whether the label can be aligned with the image (B,). Where it cannot, the loss is 0.
    """
    decode = decoder or BestPath()

    def eval_step(variables: Any, batch: Any) -> dict[str, jax.Array]:
        outputs: Any = model.apply(variables, batch["images"], batch["widths"])
        logits, lengths = outputs
        losses, feasible = ctc_loss(logits, lengths, batch["label_ids"], batch["label_lengths"])
        mask = feasible & batch["mask"]
        decoding = decode(logits, lengths)
        return {
            "path": decoding.path,
            "log_probability": decoding.log_probability,
            "log_share": decoding.log_share,
            "lengths": lengths,
            "losses": jnp.where(mask, losses, 0),
            "mask": mask,
        }

    return parallel.pmap(eval_step, devices)


def evaluate_split(
    eval_step: EvalStep,
    variables: Any,
    prepared: PreparedSplit,
    alphabet: Alphabet,
    buckets: Sequence[int],
    batch_size: int,
    devices: Devices = None,
    calibration: Calibration | None = None,
) -> Evaluation:
    """Reads every sample of a split once, in a fixed order; unreadable images count as wrong.

    Args:
      eval_step: from `make_eval_step`.
      variables: replicated parameters and statistics.
      prepared: the split.
      alphabet: that of the model.
      buckets: widths to pad to.
      batch_size: over all devices.
      devices: those that `eval_step` and `variables` are on.
      calibration: that of the confidences; None to fit it on this split.
    """
    start = time.monotonic()
    texts: list[str | None] = [None] * len(prepared)
    probabilities, path_probabilities = np.zeros((2, len(prepared)))
    metrics = TextMetrics()
    for batch, count in evaluation_batches(prepared, buckets, batch_size):
        indices, missing = batch["indices"][:count], batch["missing"][:count]
        arrays = parallel.shard(device_arrays(batch), devices)
        outputs = parallel.gather(eval_step(variables, arrays))
        paths, lengths = outputs["path"][:count], outputs["lengths"][:count]
        predictions = [
            None if absent else text
            for text, absent in zip(
                alphabet.decode_batch(paths, lengths), missing.tolist(), strict=True
            )
        ]
        for index, text in zip(indices, predictions, strict=True):
            texts[index] = text
        for key, found in (
            ("log_share", probabilities),
            ("log_probability", path_probabilities),
        ):
            found[indices] = np.where(missing, 0, np.exp(outputs[key][:count].astype(float)))
        valid = (np.arange(paths.shape[1]) < lengths[:, None]) & ~missing[:, None]
        metrics += TextMetrics.from_texts(
            predictions,
            [prepared.labels[index] for index in indices],
            loss_sum=float(outputs["losses"][:count].sum()),
            loss_count=int(outputs["mask"][:count].sum()),
            blanks=int(((paths == BLANK) & valid).sum()),
            time_steps=int(valid.sum()),
        )
    seconds = time.monotonic() - start
    read = list(zip(texts, prepared.labels, strict=True))
    right = np.array([text == label for text, label in read])
    if calibration is None:
        there = np.array([text is not None for text in texts])
        calibration = Calibration.fit(probabilities[there], right[there])
    confidences = calibration.confidence(probabilities)
    errors = {
        "ece": expected_calibration_error(confidences, right),
        "ece_uncalibrated": expected_calibration_error(path_probabilities, right),
    }
    return Evaluation(
        {**metrics.compute(), **errors, **_of_parts(prepared, texts), "seconds": seconds},
        texts,
        confidences,
        confusions((text, label) for text, label in read if text is not None),
        right,
        probabilities,
        path_probabilities,
        calibration,
    )


def _of_parts(prepared: PreparedSplit, texts: Sequence[str | None]) -> dict[str, float]:
    """The metrics of each part of a mixture; their names end with a slash and the part's name."""
    read: dict[str, tuple[list[str | None], list[str]]] = {}
    for part, text, label in zip(prepared.split.parts, texts, prepared.labels, strict=False):
        predictions, labels = read.setdefault(part, ([], []))
        predictions.append(text)
        labels.append(label)
    metrics = {part: TextMetrics.from_texts(*pair).compute() for part, pair in read.items()}
    return {f"{key}/{part}": metrics[part][key] for key in OF_PARTS for part in metrics}
