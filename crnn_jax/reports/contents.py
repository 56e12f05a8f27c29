"""The content of a report, from an evaluated split and what is known of its model."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from crnn_jax.data.images import Preprocessing
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.reports import statistics
from crnn_jax.reports.schema import Curve, Model, Report, Result, Run, Shown, Split
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.confusions import confusions
from crnn_jax.trees import flatten

MOST_WRONG = 500  # wrong images that are shown
RIGHT = 60  # right images that are shown
SHOWN_HEIGHT = 64  # pixels of an image on the page
MOST_WIDTH = 640
JPEG_QUALITY = 80

# Curves of a training, of the lines of metrics.jsonl: split, metric.
CURVES = (("train", "loss"), ("validation", "loss"), ("validation", "exact_match"))
CURVES += (("validation", "cer"),)


def describe_model(
    *,
    name: str,
    step: int,
    description: Mapping[str, Any],
    variables: Any,
    alphabet: Alphabet,
    preprocessing: Preprocessing,
    config: Mapping[str, Any],
    trained_on: str,
) -> Model:
    """Describes a model for a report.

    Args:
      name: its folder, or the name of a pretrained model.
      step: the evaluated step.
      description: name and settings of the network, as in a manifest.
      variables: its `params` and `batch_stats`, not replicated.
      alphabet: the characters that it knows.
      preprocessing: the images that it takes.
      config: the config that it was trained with; empty if that is not known.
      trained_on: where its training images come from, in words.
    """
    settings = flatten(dict(config), ".")
    parameters = jax.tree.leaves(variables["params"])
    return Model(
        name=name,
        step=step,
        network=description["name"],
        parameters=sum(math.prod(array.shape) for array in parameters),
        characters=alphabet.characters,
        ignore_case=alphabet.ignore_case,
        preprocessing=preprocessing.to_dict(),
        trained_on=trained_on,
        init_from=str(config.get("init_from", "")),
        settings=json.loads(json.dumps(settings, default=str)),
    )


def build_report(
    model: Model,
    run: Run,
    images: str,
    split: str,
    splits: Mapping[str, PreparedSplit],
    texts: Sequence[str | None],
    confidences: np.ndarray,
    metrics_lines: Sequence[str] = (),
) -> Report:
    """Computes the content of a report.

    Args:
      model: what was evaluated.
      run: how.
      images: where the images come from, in words.
      split: the name of the evaluated split.
      splits: all splits that are known, by their names.
      texts: of the N images of the evaluated split, None for those that cannot be read.
      confidences: (N,).
      metrics_lines: those of metrics.jsonl.

    Raises:
      DataError: the split has no images.
    """
    prepared = splits[split]
    results = [
        Result(_identity(prepared, index), prepared.split.names[index], label, text, confidence)
        for index, (label, text, confidence) in enumerate(
            zip(prepared.labels, texts, np.clip(confidences, 0, 1).tolist(), strict=True)
        )
    ]
    counts = confusions((one.text, one.label) for one in results if one.text is not None)
    rows = statistics.characters(results, counts)
    bins, error = statistics.calibration(results)
    kept, thresholds = statistics.abstain(results)
    has_repeat = ["yes" if statistics.has_repeat(one.label) else "no" for one in results]
    lengths = [len(one.label) for one in results]
    return Report(
        model=model,
        run=run,
        split=split,
        images=images,
        splits={name: _facts(one) for name, one in splits.items()},
        headline=statistics.headline(results),
        lengths=statistics.by_number(results, lengths),
        widths=statistics.by_number(results, prepared.widths.tolist()),
        parts=statistics.by_name(results, prepared.split.parts) if prepared.split.parts else [],
        repeats=statistics.by_name(results, has_repeat),
        characters=rows,
        confusions=statistics.most_common(counts),
        matrix=statistics.matrix(rows, counts),
        bins=bins,
        calibration_error=error,
        abstain=kept,
        thresholds=thresholds,
        curves=learning_curves(metrics_lines),
        results=results,
        shown=[shown for index in chosen(results) if (shown := _shown(prepared, index))],
    )


def chosen(results: Sequence[Result]) -> list[int]:
    """The indices of the images to show: all wrong ones if they are not too many, and some right.

    Of too many wrong ones a third are those of the highest confidence, a third those with the most
    edits, and the rest are evenly spaced. Right ones are evenly spaced in the order of confidence.
    """
    read = [index for index, result in enumerate(results) if result.text is not None]
    wrong = [index for index in read if not results[index].right]
    if len(wrong) > MOST_WRONG:
        sure = sorted(wrong, key=lambda index: -results[index].confidence)[: MOST_WRONG // 3]
        rest = sorted(set(wrong) - set(sure), key=lambda index: -_error_rate(results[index]))
        worst, rest = rest[: MOST_WRONG // 3], sorted(rest[MOST_WRONG // 3 :])
        wrong = [*sure, *worst, *_evenly(rest, MOST_WRONG - len(sure) - len(worst))]
    right = [index for index in read if results[index].right]
    right.sort(key=lambda index: results[index].confidence)
    return sorted([*wrong, *_evenly(right, RIGHT)])


def learning_curves(lines: Sequence[str]) -> list[Curve]:
    """The curves of a training; lines that are none of metrics.jsonl's are left out."""
    points: dict[tuple[str, str], dict[int, float]] = {key: {} for key in CURVES}
    for line in lines:
        try:
            entry = json.loads(line)
            step, split = int(entry["step"]), entry["split"]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
        for key in CURVES:
            value = entry.get(key[1])
            # Of a step that was repeated after a kill, the last line counts.
            if split == key[0] and isinstance(value, int | float) and math.isfinite(value):
                points[key][max(step, 0)] = float(value)
    return [
        Curve(*key, statistics.thinned(sorted(of_steps.items())))
        for key, of_steps in points.items()
        if of_steps
    ]


def _error_rate(result: Result) -> float:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_distance(result.label, result.text or "")


def _identity(prepared: PreparedSplit, index: int) -> str:
    fact = prepared.split.facts[index]
    return fact.digest.hex() if fact and fact.digest else f"name:{prepared.split.names[index]}"


def _facts(prepared: PreparedSplit) -> Split:
    lengths, characters = statistics.label_counts(prepared.labels)
    refused = {*prepared.unseen, *prepared.failures}
    return Split(
        images=len(prepared),
        lengths=dict(lengths),
        characters=dict(characters),
        unreadable=len(prepared.failures),
        unseen=len(prepared.unseen),
        too_narrow=sum(index not in refused for index in np.flatnonzero(~prepared.mask).tolist()),
    )


def _shown(prepared: PreparedSplit, index: int) -> Shown | None:
    """The prepared image, in the proportions of the file's."""
    fact = prepared.split.facts[index]
    array = prepared.image(index)
    if array is None or not fact or not fact.size:
        return None
    width, height = fact.size
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    size = (min(MOST_WIDTH, max(1, round(SHOWN_HEIGHT * width / height))), SHOWN_HEIGHT)
    image.thumbnail((MOST_WIDTH, SHOWN_HEIGHT))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=JPEG_QUALITY)
    encoded = base64.b64encode(file.getvalue()).decode()
    return Shown(index, f"data:image/jpeg;base64,{encoded}", *size)


def _evenly(indices: Sequence[int], count: int) -> list[int]:
    if len(indices) <= count:
        return list(indices)
    places = np.linspace(0, len(indices) - 1, count).round().astype(int)
    return [indices[place] for place in places]
