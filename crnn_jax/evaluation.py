"""Evaluation: a model reads a whole split, and its texts are compared with the labels."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crnn_jax.config import Config, check_config
from crnn_jax.data.batching import evaluation_batches
from crnn_jax.data.buckets import choose_buckets
from crnn_jax.data.prepared import PreparedSplit, device_arrays
from crnn_jax.dataset import load_benchmark, load_split
from crnn_jax.decoding import Decoder
from crnn_jax.decoding.options import (
    DEFAULT_LANGUAGE_WEIGHT,
    DecodingOptions,
    make_decoder,
)
from crnn_jax.decoding.paths import BestPath
from crnn_jax.errors import ConfigError
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.trained_model import BEST, TrainedModel
from crnn_jax.run_data import config_of, describe, in_words
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.confusions import Confusions, confusions
from crnn_jax.text.constraints import Length
from crnn_jax.text.language_model import LanguageModel
from crnn_jax.text.metrics import TextMetrics
from crnn_jax.text.protocol import SUBSETS
from crnn_jax.text.reliability import expected_calibration_error
from crnn_jax.training import parallel
from crnn_jax.training.losses import ctc_loss
from crnn_jax.training.manifest import warn_of_another_split
from crnn_jax.training.parallel import Devices

# Metrics that each part of a mixture has as well.
OF_PARTS = ("exact_match", "exact_match_caseless", "cer")
SCORES = (
    *("exact_match", "exact_match_caseless", "exact_match_alphanumeric"),
    *("cer", "cer_caseless", "one_minus_ned"),
)
SHOWN_CONFUSIONS = 20  # the most frequent
SCORE_BUCKETS = 4  # widths to pad to; each costs a compilation

SPLITS = ("train", "validation", "test")

EvalStep = Callable[[Any, Any], dict[str, jax.Array]]

logger = logging.getLogger(__name__)


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


def score(
    model_name: str | Path | None,
    directories: Sequence[Path],
    batch_size: int,
    devices: Devices = None,
    **options: Unpack[DecodingOptions],
) -> Iterator[dict[str, Any]]:
    """Evaluates a trained model on whole sets, each on all its labels and on the `SUBSETS`.

    Args:
      model_name: a workdir, or the name of a pretrained model; None for the default one.
      directories: folders of images, or LMDB databases.
      batch_size: over all devices.
      devices: those that share each batch; None for all local ones.
      options: how to read, see `DecodingOptions`.

    Yields:
      A row of metrics for each set and subset: `set`, `subset`, `count` and `SCORES`. Subsets
      without labels, or with all of them, are left out.

    Raises:
      CheckpointError: nothing was saved, or it cannot be read.
      DataError: there is no such set, or it cannot be understood.
    """
    parallel.check_batch_size(batch_size, devices)
    model = TrainedModel.load(model_name)
    decoder = make_decoder(model.alphabet, model.charsets, **options)
    eval_step = make_eval_step(model.network, devices, decoder)
    variables = parallel.replicate(model.variables, devices)
    for directory in directories:
        prepared = load_benchmark(
            directory, model.alphabet, model.preprocessing, model.space_to_depth
        )
        buckets = choose_buckets(prepared.widths, SCORE_BUCKETS)
        texts = evaluate_split(
            *(eval_step, variables, prepared, model.alphabet, buckets, batch_size, devices),
            model.calibration,
        ).texts
        for subset, belongs in SUBSETS.items():
            chosen = [i for i, label in enumerate(prepared.split.labels) if belongs(label)]
            if chosen and (subset == "all" or len(chosen) < len(texts)):
                read = [texts[i] for i in chosen]
                labels = [prepared.labels[i] for i in chosen]
                metrics = TextMetrics.from_texts(read, labels).compute()
                caseless = TextMetrics.from_texts(
                    [text if text is None else text.casefold() for text in read],
                    [label.casefold() for label in labels],
                )
                metrics["cer_caseless"] = caseless.compute()["cer"]
                kept = {key: metrics[key] for key in ("count", *SCORES)}
                yield {"set": str(directory), "subset": subset, **kept}


def evaluate(
    workdir: str | Path,
    data: str | Path | Config | None = None,
    *,
    split: str = "test",
    step: int | None = None,
    alphabet: str | None = None,
    length: Length | None = None,
    shape: str | None = None,
    lexicon: Sequence[str] | None = None,
    caseless: bool = False,
    beam_width: int | None = None,
    language_model: LanguageModel | None = None,
    language_weight: float = DEFAULT_LANGUAGE_WEIGHT,
    devices: Devices = None,
) -> dict[str, Any]:
    """Reads the images of a split with a trained model, and returns how much of it is right.

    Args:
      workdir: the folder of a run; or the name of a pretrained model, which needs `data`.
      data: a folder of labeled images, or a config, whose `data`, `seed` and `batch_size` are
        used; None for the data that the model was trained with.
      split: `train`, `validation` or `test`.
      step: the step of a checkpoint; None for the best one.
      alphabet, length, shape, lexicon, caseless: what is known of the texts, see `Recognizer.load`.
      beam_width, language_model, language_weight: how to read, see `Recognizer.load`.
      devices: the devices that share each batch; None for all local ones.

    Returns:
      `step`, `split`, `source` and `directory` of the images, the metrics of `TextMetrics`, and

      - `ece`, the expected calibration error of the confidences, and `ece_uncalibrated`, that of
        the probabilities of the paths that were read; see `expected_calibration_error`;
      - `min_confidence`, with which 99 % of the texts were right on the validation images; None
        if that was not reached. `accepted` is the share of texts that have it, and
        `accepted_exact_match` the share of these that are right, None if there are none;
      - `confusions`: the 20 most frequent, as lists of the character in the label, what was read
        instead, and how often. Either text may be empty.

    Raises:
      CheckpointError: there is no checkpoint, or it cannot be read.
      ConfigError, DataError: the data cannot be used.
    """
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}; choose from {', '.join(SPLITS)}")
    model = TrainedModel.load(workdir, BEST if step is None else step)
    config = config_of(model)
    if isinstance(data, str | Path):
        config.data.update(source="folder", dir=str(data))
    elif data is not None:
        config = data
    return evaluate_model(
        model,
        config,
        split,
        devices,
        alphabet=alphabet,
        length=length,
        shape=shape,
        lexicon=lexicon,
        caseless=caseless,
        beam_width=beam_width,
        language_model=language_model,
        language_weight=language_weight,
    )


def evaluate_model(
    model: TrainedModel,
    config: Config,
    split: str,
    devices: Devices = None,
    **options: Unpack[DecodingOptions],
) -> dict[str, Any]:
    """Evaluates a loaded model on the data of a config; see `evaluate`.

    Raises:
      ConfigError, DataError: the data cannot be used.
    """
    if not config.data.source:
        raise ConfigError(
            f"{model.name} does not say what it was trained with; name images, such as"
            " --config.data.source=folder --config.data.dir=DIR"
        )
    check_config(config)
    decoder = make_decoder(model.alphabet, model.charsets, **options)
    parallel.check_batch_size(config.batch_size, devices)
    images, trained_on = describe(config.data), config_of(model).data
    if trained_on.source and images != (trained := describe(trained_on)):
        logger.warning("%s was trained with other data: %s", model.name, in_words(trained))
    prepared = load_split(config, model.alphabet, model.preprocessing, model.space_to_depth, split)
    if prepared.split.drawn:
        warn_of_another_split(model.config, config.to_dict())
    result = evaluate_split(
        make_eval_step(model.network, devices, decoder),
        parallel.replicate(model.variables, devices),
        prepared,
        model.alphabet,
        choose_buckets(prepared.widths, config.data.buckets),
        config.batch_size,
        devices,
        model.calibration,
    )
    commonest = [[*pair, n] for pair, n in result.confusions.most_common(SHOWN_CONFUSIONS)]
    return {
        **{"step": model.step, "split": split, **images},
        **result.metrics,
        **_accepted(result),
        "confusions": commonest,
    }


def _accepted(result: Evaluation) -> dict[str, float | None]:
    """The least confidence of texts that are accepted, their share, and how many are right."""
    least = result.calibration.min_confidence
    kept = result.right[result.confidences >= (2 if least is None else least)]
    return {
        "min_confidence": least,
        "accepted": len(kept) / len(result.right),
        "accepted_exact_match": float(kept.mean()) if len(kept) else None,
    }
