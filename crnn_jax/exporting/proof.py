"""The proof of an exported model: through its runtime it reads what JAX reads."""

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crnn_jax import __version__
from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.images import decode, pad_batch
from crnn_jax.decoding.options import make_decoder
from crnn_jax.errors import ExportFailed
from crnn_jax.exporting import Format, Outputs, Reader
from crnn_jax.exporting.proof_images import Sample
from crnn_jax.recognition.batches import WIDTHS
from crnn_jax.recognition.jax_backend import apply_network
from crnn_jax.recognition.jax_backend import decode as decode_logits
from crnn_jax.recognition.preparing import Prepared
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.training.integrity import describe
from crnn_jax.trees import flatten

BATCH = 32  # images that JAX reads together, and that are given to the runtime together at most
CONFIDENCE = 1e-3  # the largest difference of a probability
POINTS = 0.5  # by which the share of right texts may fall, in a format that rounds parameters
MEASURED = 200  # labeled images, below which that share says little
LABELED = 0.1  # of the labels must be read for them to be labels, and not mere names of files
RUNTIMES = ("jax", "numpy", "pillow", "onnx", "onnxruntime", "safetensors", "torch")


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read in one image.

    Attributes:
      text: the text.
      classes: (T,), those of the valid time steps.
      probabilities: (T,), those of the classes.
      confidence: how likely the text is right.
      logits: (T, K).
    """

    text: str
    classes: np.ndarray
    probabilities: np.ndarray
    confidence: float
    logits: np.ndarray


def prove(
    model: TrainedModel,
    form: Format,
    read: Reader,
    samples: Sequence[Sample],
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Compares what a runtime reads with what JAX reads.

    Args:
      model: the model that was exported.
      form: its format.
      read: reads with the runtime of the format.
      samples: images, see `proof_images`.
      advance: is called after each image.

    Returns:
      What was compared, and how large the differences are, in JSON types.

    Raises:
      ExportFailed: texts differ, or numbers by more than the format's tolerance. The message names
        the image.
    """
    expected = _by_jax(model, samples)
    found: dict[int, Reading] = {}
    for places in _batches(samples):
        outputs = read(np.stack([samples[place].pixels for place in places]))
        for place, reading in zip(places, _readings(model, outputs), strict=True):
            found[place] = reading
            if form.tolerance is not None:
                _compare(samples[place], expected[place], reading, form.tolerance)
            advance()
    pairs = [(expected[place], found[place]) for place in range(len(samples))]
    proof = {
        "format": form.name,
        "model": {"name": model.name, "step": model.step, "arrays": _digest(model)},
        "images": {"compared": Counter(sample.kind for sample in samples)},
        "equal_texts": sum(a.text == b.text for a, b in pairs),
        "texts": len(pairs),
        "tolerance": form.tolerance,
        "largest_difference": _differences(pairs),
        "exact_match": _exact_match(model, samples, pairs),
        "measured_from": MEASURED,
        "versions": {"crnn_jax": __version__, "python": platform.python_version(), **_versions()},
        "processor": _processor(),
    }
    if form.tolerance is None:
        _check_accuracy(model, samples, pairs, proof["exact_match"])
    return proof


def _by_jax(model: TrainedModel, samples: Sequence[Sample]) -> list[Reading]:
    """What `Recognizer.load(model)` reads by default, in batches of similar width."""
    preprocessing, decoder = model.preprocessing, make_decoder(model.alphabet, model.charsets)
    prepared = [
        Prepared.of(decode(sample.image, preprocessing, sample.name), preprocessing).pixels
        for sample in samples
    ]
    variables = jax.device_put(model.variables)
    widths = (preprocessing.width,) if preprocessing.width else WIDTHS
    order = sorted(range(len(samples)), key=lambda place: prepared[place].shape[1])
    readings: dict[int, Reading] = {}
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        # Always as many images, so that there are few programs to compile.
        batch = [prepared[place] for place in (*places, *[places[0]] * (BATCH - len(places)))]
        widest = max(image.shape[1] for image in batch)
        padded = pad_batch(batch, bucket_width(widest, widths))
        logits, lengths = apply_network(model.network, variables, *padded)
        decoding = decode_logits(decoder, logits, lengths)
        assert decoding.step_probabilities is not None
        share = np.exp(np.asarray(decoding.log_share, float))
        with np.errstate(divide="ignore"):  # after the valid time steps
            log_probabilities = np.log(np.asarray(decoding.step_probabilities))
        outputs = Outputs(
            np.asarray(decoding.path),
            np.asarray(lengths),
            log_probabilities,
            model.calibration.confidence(share),
            np.asarray(logits),
        )
        readings.update(zip(places, _readings(model, outputs), strict=False))
    return [readings[place] for place in range(len(samples))]


def _batches(samples: Sequence[Sample]) -> Iterator[list[int]]:
    """Places of samples of one kind and size, at most as many as a batch."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault((sample.kind, sample.pixels.shape), []).append(place)
    for (kind, _), same in places.items():
        # An image as it is comes alone once, too.
        if kind == "as it is" and len(same) > 1:
            yield same[:1]
            same = same[1:]
        for start in range(0, len(same), BATCH):
            yield same[start : start + BATCH]


def _readings(model: TrainedModel, outputs: Outputs) -> Iterator[Reading]:
    for row, length in enumerate(outputs.lengths.tolist()):
        classes = outputs.classes[row, :length]
        yield Reading(
            model.alphabet.decode(classes),
            classes,
            np.exp(outputs.log_probabilities[row, :length]),
            float(outputs.confidence[row]),
            outputs.logits[row, :length],
        )


def _compare(sample: Sample, expected: Reading, found: Reading, tolerance: float) -> None:
    """Raises ExportFailed if a reading is not the expected one.

    The tolerance is a share of the largest logit. That is how far rounding goes: in JAX itself the
    logits of an image change by as much with the width that it is padded to.
    """
    if expected.text != found.text:
        raise ExportFailed(
            f"the exported model reads {found.text!r} in {sample.name}, where JAX reads"
            f" {expected.text!r}; nothing was written"
        )
    if len(expected.classes) != len(found.classes) or (expected.classes != found.classes).any():
        raise ExportFailed(
            f"the exported model reads {sample.name} on another path than JAX, {_shown(found)}"
            f" instead of {_shown(expected)}; nothing was written"
        )
    differences = _differences([(expected, found)])
    for name, most in (
        ("logits_relative", tolerance),
        ("probabilities", CONFIDENCE),
        ("confidence", CONFIDENCE),
    ):
        if not differences[name] <= most:  # also refuses NaN
            raise ExportFailed(
                f"the {name} of {sample.name} differ from those of JAX by"
                f" {differences[name]:.2g}, more than {most:g}; nothing was written"
            )


def _shown(reading: Reading) -> str:
    return " ".join(map(str, reading.classes.tolist()))


def _differences(pairs: Sequence[tuple[Reading, Reading]]) -> dict[str, float]:
    """The largest differences; of logits also as a share of the largest logit of the image."""

    def largest(name: str, relative: bool = False) -> float:
        values = ((getattr(a, name), getattr(b, name)) for a, b in pairs)
        return max(
            float(np.abs(a - b).max(initial=0))
            / (max(1.0, float(np.abs(a).max(initial=0))) if relative else 1)
            for a, b in values
        )

    return {
        "logits": largest("logits"),
        "logits_relative": largest("logits", relative=True),
        "probabilities": largest("probabilities"),
        "confidence": largest("confidence"),
    }


def _exact_match(
    model: TrainedModel, samples: Sequence[Sample], pairs: Sequence[tuple[Reading, Reading]]
) -> dict[str, Any] | None:
    """How much of the labels JAX and the runtime read; None if there are no labels."""
    labeled = [
        (model.alphabet.normalize(sample.label), *pair)
        for sample, pair in zip(samples, pairs, strict=True)
        if sample.label is not None
    ]
    by_jax = sum(label == expected.text for label, expected, _ in labeled)
    if not labeled or by_jax < LABELED * len(labeled):
        return None
    exported = sum(label == found.text for label, _, found in labeled)
    count = len(labeled)
    return {"images": count, "jax": by_jax / count, "exported": exported / count}


def _check_accuracy(
    model: TrainedModel,
    samples: Sequence[Sample],
    pairs: Sequence[tuple[Reading, Reading]],
    match: dict[str, Any] | None,
) -> None:
    """Raises ExportFailed if too many texts are wrong that were right."""
    if match is None or match["images"] < MEASURED:
        return
    lost = round(100 * (match["jax"] - match["exported"]), 6)
    if lost > POINTS:
        name, label, text = next(
            (sample.name, sample.label, found.text)
            for sample, (expected, found) in zip(samples, pairs, strict=True)
            if sample.label is not None
            and expected.text == model.alphabet.normalize(sample.label) != found.text
        )
        raise ExportFailed(
            f"the exported model reads {lost:.2f} points fewer of {match['images']:,} texts than"
            f" JAX, more than {POINTS}; it reads {text!r} in {name}, which says {label!r}; nothing"
            " was written"
        )


def _digest(model: TrainedModel) -> str:
    """SHA-256 of the arrays and their names."""
    whole = hashlib.sha256()
    arrays = {path: np.asarray(array) for path, array in flatten(model.variables).items()}
    for path, form in sorted(describe(arrays).items()):
        whole.update(f"{path} {form['sha256']}\n".encode())
    return whole.hexdigest()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in RUNTIMES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
