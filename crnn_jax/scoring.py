"""Evaluations of trained models: on the images of a config, or on whole labeled sets."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from crnn_jax.config import Config, check_config
from crnn_jax.data.buckets import choose_buckets
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.dataset import load_benchmark, load_split
from crnn_jax.decoding import Decoder
from crnn_jax.decoding.options import make_decoder
from crnn_jax.errors import ConfigError
from crnn_jax.evaluation import Evaluation, evaluate_split, make_eval_step
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import BEST, TrainedModel
from crnn_jax.reports.contents import describe_model
from crnn_jax.reports.writing import PAGE, report_evaluation
from crnn_jax.run_data import config_of, describe, in_words
from crnn_jax.text.metrics import TextMetrics
from crnn_jax.text.options import DecodingOptions
from crnn_jax.text.protocol import SUBSETS
from crnn_jax.training import parallel
from crnn_jax.training.manifest import warn_of_another_split
from crnn_jax.training.parallel import Devices

SCORES = (
    *("exact_match", "exact_match_caseless", "exact_match_alphanumeric"),
    *("cer", "cer_caseless", "one_minus_ned"),
)
SHOWN_CONFUSIONS = 20  # the most frequent
SCORE_BUCKETS = 4  # widths to pad to; each costs a compilation

SPLITS = ("train", "validation", "test")

logger = logging.getLogger(__name__)


def score(
    model_name: str | Path | None,
    directories: Sequence[Path],
    batch_size: int,
    devices: Devices = None,
    report: Path | None = None,
    same_source: bool = False,
    **options: Unpack[DecodingOptions],
) -> Iterator[dict[str, Any]]:
    """Evaluates a trained model on whole sets, each on all its labels and on the `SUBSETS`.

    Args:
      model_name: a workdir, or the name of a pretrained model; None for the default one.
      directories: folders of images, or LMDB databases.
      batch_size: over all devices.
      devices: those that share each batch; None for all local ones.
      report: a folder for reports, one folder for each set; None for none.
      same_source: the images of each set are of one source, see `Recognizer.adapt`.
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
    places: Counter[str] = Counter()  # of reports, as sets in two folders may have one name
    for directory in directories:
        prepared = load_benchmark(
            directory, model.alphabet, model.preprocessing, model.architecture.time_steps
        )
        if same_source:
            decoder = _adapted(model, prepared, options)
            eval_step = make_eval_step(model.network, devices, decoder)
        buckets = choose_buckets(prepared.widths, SCORE_BUCKETS)
        result = evaluate_split(
            *(eval_step, variables, prepared, model.alphabet, buckets, batch_size, devices),
            model.calibration,
        )
        texts = result.texts
        if report:
            places[name := directory.absolute().name] += 1
            place = report / (name if places[name] == 1 else f"{name}_{places[name]}")
            how = {**options, "same_source": same_source}
            _report(place, model, str(directory), "test", prepared, result, devices, how)
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
    report: str | Path | None = None,
    devices: Devices = None,
    same_source: bool = False,
    **options: Unpack[DecodingOptions],
) -> dict[str, Any]:
    """Reads the images of a split with a trained model, and returns how much of it is right.

    Args:
      workdir: the folder of a run; or the name of a pretrained model, which needs `data`.
      data: a folder of labeled images, or a config, whose `data`, `seed` and `batch_size` are
        used; None for the data that the model was trained with.
      split: `train`, `validation` or `test`.
      step: the step of a checkpoint; None for the best one.
      report: a folder for a page about the result, index.html, and its content, report.json.
      devices: the devices that share each batch; None for all local ones.
      same_source: the images are of one source, see `Recognizer.adapt`.
      options: how to read, see `DecodingOptions`.

    Returns:
      `step`, `split`, `source` and `directory` of the images, the metrics of `TextMetrics`, and

      - `ece`, the expected calibration error of the confidences, and `ece_uncalibrated`, that of
        the probabilities of the paths that were read; see `expected_calibration_error`;
      - `min_confidence`, with which 99 % of the texts were right on the validation images; None
        if that was not reached. `accepted` is the share of texts that have it, and
        `accepted_exact_match` the share of these that are right, None if there are none;
      - `confusions`: the 20 most frequent, as lists of the character in the label, what was read
        instead, and how often. Either text may be empty;
      - `report`, the page, if one was written.

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
    folder = Path(report) if report else None
    return evaluate_model(model, config, split, devices, folder, same_source, **options)


def evaluate_model(
    model: TrainedModel,
    config: Config,
    split: str,
    devices: Devices = None,
    report: Path | None = None,
    same_source: bool = False,
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
    prepared = load_split(
        config, model.alphabet, model.preprocessing, model.architecture.time_steps, split
    )
    if prepared.split.drawn:
        warn_of_another_split(model.config, config.to_dict())
    if same_source:
        decoder = _adapted(model, prepared, options)
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
    page: dict[str, str] = {}
    if report:
        source, how = in_words(images), {**options, "same_source": same_source}
        if _report(report, model, source, split, prepared, result, devices, how):
            page["report"] = str(report / PAGE)
    commonest = [[*pair, n] for pair, n in result.confusions.most_common(SHOWN_CONFUSIONS)]
    return {
        **{"step": model.step, "split": split, **images},
        **result.metrics,
        **_accepted(result),
        "confusions": commonest,
        **page,
    }


def _adapted(model: TrainedModel, prepared: PreparedSplit, options: DecodingOptions) -> Decoder:
    """The decoder for the images of a split, which are of one source."""
    readable = (i for i in range(len(prepared)) if i not in prepared.failures)
    recognizer = Recognizer(model, backend="jax", **options)
    return recognizer.adapt(map(prepared.split.read, readable)).decoder


def _accepted(result: Evaluation) -> dict[str, float | None]:
    """The least confidence of texts that are accepted, their share, and how many are right."""
    least = result.calibration.min_confidence
    kept = result.right[result.confidences >= (2 if least is None else least)]
    return {
        "min_confidence": least,
        "accepted": len(kept) / len(result.right),
        "accepted_exact_match": float(kept.mean()) if len(kept) else None,
    }


def _report(
    folder: Path,
    model: TrainedModel,
    images: str,
    split: str,
    prepared: PreparedSplit,
    result: Evaluation,
    devices: Devices,
    options: Mapping[str, Any],
) -> bool:
    """Writes the report of an evaluation; whether that was possible."""
    trained_on = config_of(model).data
    described = describe_model(
        name=model.name,
        step=model.step,
        description=model.description,
        variables=model.variables,
        alphabet=model.alphabet,
        preprocessing=model.preprocessing,
        config=model.config,
        trained_on=in_words(describe(trained_on)) if trained_on.source else "",
    )
    splits, texts = {split: prepared}, result.texts
    return report_evaluation(
        *(folder, described, images, split, splits, texts, result.confidences),
        devices=devices,
        workdir=Path(model.name) if model.config else None,
        options=options,
    )
