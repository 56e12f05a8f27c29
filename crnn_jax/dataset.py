"""The images that a config names: read, checked, cleaned by its policies."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from crnn_jax import models
from crnn_jax.config import Config, check_config
from crnn_jax.data import sources
from crnn_jax.data.buckets import choose_buckets
from crnn_jax.data.checks import (
    EMPTY,
    SEVERITIES,
    UNREADABLE,
    UNSEEN,
    Finding,
    image_findings,
    label_findings,
    too_long,
)
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.report import Report
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.text.alphabet import Alphabet, may_belong

logger = logging.getLogger(__name__)

# The settings that say what becomes of samples with such a finding: error, drop or map.
POLICIES = {EMPTY: "on_empty_label", UNSEEN: "on_unseen", UNREADABLE: "on_unreadable"}

# What can be done where a split is missing.
ADD = {
    "train": "use --mode eval, or add training images",
    "validation": "set a part's validation_fraction above 0",
    "test": "add test images, such as a test.tsv, or have some drawn from the others: rename"
    " train.tsv to labels.tsv, or set a part's test_fraction above 0",
}

Splits: TypeAlias = dict[str, PreparedSplit]


@dataclass(frozen=True)
class Dataset:
    """All that a run asks of its images; `splits` are train, validation and test."""

    alphabet: Alphabet
    preprocessing: Preprocessing
    splits: Splits
    buckets: tuple[int, ...]
    findings: list[Finding]


def load_dataset(config: Config) -> Dataset:
    """Reads the data to train with. Only training images are ever dropped.

    Raises:
      ConfigError, DataError: something cannot be used, and no policy says to go on without it.
    """
    splits = sources.load_splits(config.data, config.seed)
    for name in ("train", "validation", "test"):
        _require(name, splits, config)
    alphabet = choose_alphabet(config, splits)
    of_labels = _judged(label_findings(splits, alphabet), config)
    _enforce(of_labels, config)  # cheap, so all labels are checked before any image
    splits["train"] = _mapped(splits["train"], alphabet, config)
    preprocessing = config_preprocessing(config)
    prepared = _read(splits, alphabet, preprocessing, config)
    of_images = _judged(_of_images(prepared, alphabet, preprocessing), config)
    _enforce(of_images, config)
    prepared["train"] = _cleaned(prepared["train"], alphabet, config)
    buckets = choose_buckets(prepared["train"].widths, config.data.buckets)
    return Dataset(alphabet, preprocessing, prepared, buckets, [*of_labels, *of_images])


def load_split(
    config: Config, alphabet: Alphabet, preprocessing: Preprocessing, name: str = "test"
) -> PreparedSplit:
    """Reads a split to evaluate a trained model with, every sample of it.

    Raises:
      ConfigError, DataError: something cannot be used, and no policy says to count it as wrong.
    """
    # Validation images are drawn from the training images, all of which are looked at for that.
    load = sources.load if name == "test" else sources.load_splits
    splits = load(config.data, config.seed)
    _require(name, splits, config)
    splits = {name: splits[name]}
    of_labels = _judged(label_findings(splits, alphabet), config)
    _enforce(of_labels, config)
    prepared = _read(splits, alphabet, preprocessing, config)
    of_images = _judged(_of_images(prepared, alphabet, preprocessing), config)
    _enforce(of_images, config)
    _warn([*of_labels, *of_images])
    return prepared[name]


def load_benchmark(
    directory: Path, alphabet: Alphabet, preprocessing: Preprocessing
) -> PreparedSplit:
    """Reads a folder or database to score a trained model with, every sample of it.

    That is its test split, or all of it where it has none. What is wrong with it is warned of.

    Raises:
      DataError: there is no such data, or a label file cannot be understood.
    """
    databases = (directory / "data.mdb", directory / "test" / "data.mdb")
    source = "lmdb" if any(file.is_file() for file in databases) else "folder"
    splits = sources.SOURCES[source]({"dir": str(directory)})
    split = splits["test"] if "test" in splits else next(iter(splits.values()))
    prepared = PreparedSplit(split, alphabet, preprocessing, 0, directory.name, max_missing=1.0)
    _warn(
        [
            *label_findings({"test": split}, alphabet),
            *_of_images({"test": prepared}, alphabet, preprocessing),
        ]
    )
    return prepared


def check_dataset(config: Config) -> Report:
    """Reads all the data and says what is wrong with it; nothing is dropped.

    Raises:
      ConfigError: a setting makes no sense.
      DataError: there is no such data, or a label file cannot be understood.
    """
    check_config(config)
    splits = sources.load_splits(config.data, config.seed)
    alphabet = choose_alphabet(config, splits)
    preprocessing = config_preprocessing(config)
    prepared = {
        name: PreparedSplit(split, alphabet, preprocessing, 0, name)
        for name, split in splits.items()
    }
    findings = [
        *label_findings(splits, alphabet),
        *_of_images(prepared, alphabet, preprocessing),
    ]
    first = next(iter(prepared.values()))  # train, or the only one
    buckets = choose_buckets(first.widths, config.data.buckets)
    return Report(_judged(findings, config), prepared, alphabet, buckets)


def _require(name: str, splits: Mapping[str, Split], config: Config) -> None:
    if name not in splits:
        raise DataError(f"the data of {_flags(config)} have no {name} images; {ADD[name]}")


def _flags(config: Config) -> str:
    """What to give check_data, to see the same data."""
    data = config.data
    if data.source == sources.MIXTURE:
        return "--config (that of the mixture)"
    return f"--config.data.source={data.source} --config.data.dir={data.dir}"


def config_preprocessing(config: Config) -> Preprocessing:
    """The preprocessing that a config asks for."""
    data = config.data
    return Preprocessing(
        height=data.height,
        channels=data.channels,
        width=data.width,
        max_width=data.max_width,
        invert=data.invert,
    )


def choose_alphabet(config: Config, splits: Mapping[str, Split]) -> Alphabet:
    """The alphabet that a config names, or else the characters of what is trained on.

    Without training images they are those of the test labels. Characters that no alphabet may
    have are left out, for the data checks to find.
    """
    settings = config.alphabet
    if settings.characters:
        return Alphabet(settings.characters, settings.ignore_case)
    if settings.file:
        return Alphabet.from_file(settings.file, settings.ignore_case)
    learned = [splits[name] for name in ("train", "validation") if name in splits]
    labels = (label for split in learned or splits.values() for label in split.labels)
    texts = ("".join(filter(may_belong, label)) for label in labels)
    return Alphabet.from_labels(texts, settings.ignore_case)


def _read(
    splits: Mapping[str, Split], alphabet: Alphabet, preprocessing: Preprocessing, config: Config
) -> Splits:
    prepared: Splits = {}
    room = config.data.cache_megabytes * 10**6
    drop = config.data.on_unreadable == "drop"
    for name, split in splits.items():
        # Of what is trained on so many may be dropped; what is evaluated counts as wrong.
        max_missing = (config.data.max_dropped if name == "train" else 1.0) if drop else 0.0
        prepared[name] = PreparedSplit(split, alphabet, preprocessing, room, name, max_missing)
        room -= prepared[name].cached_bytes
    return prepared


def _of_images(
    splits: Splits, alphabet: Alphabet, preprocessing: Preprocessing
) -> Iterable[Finding]:
    return image_findings(splits, alphabet, preprocessing, models.num_time_steps)


def _judged(findings: Iterable[Finding], config: Config) -> list[Finding]:
    """The findings, the worst first; what a policy puts up with is a warning."""
    judged = [
        dataclasses.replace(finding, severity="warning")
        if (policy := POLICIES.get(finding.kind)) and config.data[policy] != "error"
        else finding
        for finding in findings
    ]
    return sorted(judged, key=lambda one: SEVERITIES.index(one.severity), reverse=True)


def _warn(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.severity != "note":
            logger.warning("%s; the first: %s", finding.message, finding.samples[0])


def _enforce(findings: Iterable[Finding], config: Config) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more problem(s))" if len(errors) > 1 else ""
        raise DataError(
            f"{errors[0].message}: {errors[0].samples[0]}{more}; all are shown by python -m "
            f"crnn_jax.check_data {_flags(config)}"
        )


def _mapped(split: Split, alphabet: Alphabet, config: Config) -> Split:
    """The split with `map_to` in place of each character that the alphabet lacks."""
    if config.data.on_unseen != "map":
        return split
    if alphabet.unseen(config.data.map_to):
        raise ConfigError(
            f"data.map_to={config.data.map_to!r} is not in the alphabet; set a character of it, or "
            "'' to leave unseen characters out"
        )
    labels = (
        alphabet.normalize(label).translate(
            str.maketrans(dict.fromkeys(alphabet.unseen(label), config.data.map_to))
        )
        for label in split.labels
    )
    return dataclasses.replace(split, labels=tuple(labels))


def _cleaned(train: PreparedSplit, alphabet: Alphabet, config: Config) -> PreparedSplit:
    """The training samples that can be trained on."""
    refused = {
        index
        for index, label in enumerate(train.split.labels)
        if index in train.failures or not label or alphabet.unseen(label)
    }
    if len(refused) > config.data.max_dropped * len(train):
        raise DataError(
            f"{len(refused)} of {len(train)} training images cannot be used, a share above"
            f" data.max_dropped={config.data.max_dropped}; look at them with python -m"
            " crnn_jax.check_data"
        )
    refused.update(too_long(train, alphabet, models.num_time_steps))
    kept = [index for index in range(len(train)) if index not in refused]
    if not kept:
        raise DataError(
            "no training label fits into its image's time steps (an eighth of its height"
            " each); are the labels those of these images?"
        )
    return train.select(kept)
