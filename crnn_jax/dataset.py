"""The images of a config: loaded, checked and prepared for training, evaluation or a report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crnn_jax.architecture import Architecture
from crnn_jax.config import Config, check_config
from crnn_jax.data import sources
from crnn_jax.data.buckets import choose_buckets
from crnn_jax.data.checks import Finding, image_findings, label_findings
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.labels import Labels, TimeSteps
from crnn_jax.data.policies import enforce, judge, map_unseen, usable, warn
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.reader import ImageReader
from crnn_jax.data.report import Report
from crnn_jax.data.sources.lmdb_database import is_database
from crnn_jax.data.sources.paths import errors_of
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import DataError
from crnn_jax.text.alphabet import Alphabet, may_belong

# What a user can do about a split that is missing.
ADD = {
    "train": "use --mode eval, or add training images",
    "validation": "set the validation_fraction of a part above 0",
    "test": "add test images, for example in test.tsv; to have them drawn from the other images,"
    " rename train.tsv to labels.tsv, or set the test_fraction of a part above 0",
}


@dataclass(frozen=True)
class Dataset:
    """What a run needs of its data. The splits are train, validation and test."""

    alphabet: Alphabet
    preprocessing: Preprocessing
    splits: dict[str, PreparedSplit]
    buckets: tuple[int, ...]
    findings: list[Finding]


def load_dataset(config: Config) -> Dataset:
    """Loads the data to train on. Samples are only ever dropped from the training split.

    Raises:
      ConfigError, DataError: some of it cannot be used, and no policy tolerates that.
    """
    preprocessing = config_preprocessing(config)
    reader = ImageReader(preprocessing, config.data.cache_megabytes * 10**6)
    splits = sources.load_splits(config.data, config.seed, reader.examine)
    for name in ADD:
        _require(name, splits, config)
    alphabet = choose_alphabet(config, splits)
    labels = _encode(splits, alphabet)
    # Labels are checked first, as this needs no image.
    of_labels = judge(label_findings(splits, labels), config.data)
    enforce(of_labels, config.data)
    if config.data.on_unseen == "map":
        splits["train"] = map_unseen(splits["train"], labels["train"], alphabet, config.data)
        labels["train"] = Labels.encode(splits["train"].labels, alphabet)
    time_steps = config_time_steps(config)
    prepared: dict[str, PreparedSplit] = {}
    for name, split in splits.items():
        max_missing = _max_missing(config, config.data.max_dropped if name == "train" else 1.0)
        prepared[name] = PreparedSplit(split, labels[name], reader, time_steps, max_missing)
    of_images = judge(image_findings(prepared, time_steps), config.data)
    enforce(of_images, config.data)
    prepared["train"] = usable(prepared["train"], config.data)
    buckets = choose_buckets(prepared["train"].widths, config.data.buckets)
    return Dataset(alphabet, preprocessing, prepared, buckets, [*of_labels, *of_images])


def load_split(
    config: Config,
    alphabet: Alphabet,
    preprocessing: Preprocessing,
    time_steps: TimeSteps,
    name: str = "test",
) -> PreparedSplit:
    """Loads all samples of a split, to evaluate a trained model.

    Raises:
      ConfigError, DataError: some of them cannot be used, and no policy counts them as wrong.
    """
    # Validation images are drawn from the training images, all of which are examined for that.
    load = sources.load if name == "test" else sources.load_splits
    splits = load(config.data, config.seed)
    _require(name, splits, config)
    splits = {name: splits[name]}
    labels = _encode(splits, alphabet)
    of_labels = judge(label_findings(splits, labels), config.data)
    enforce(of_labels, config.data)
    reader = ImageReader(preprocessing, config.data.cache_megabytes * 10**6)
    prepared = PreparedSplit(
        splits[name], labels[name], reader, time_steps, _max_missing(config, 1.0)
    )
    of_images = judge(image_findings({name: prepared}, time_steps), config.data)
    enforce(of_images, config.data)
    warn([*of_labels, *of_images])
    return prepared


def load_benchmark(
    directory: Path,
    alphabet: Alphabet,
    preprocessing: Preprocessing,
    time_steps: TimeSteps,
    name: str = "test",
) -> PreparedSplit:
    """Loads all samples of a folder or database, to score a trained model.

    If it has a split of that name, that is loaded; else all of it. Problems are only warned about.

    Raises:
      DataError: there is no such data, or a label file cannot be understood.
    """
    split = find_benchmark(directory, name)
    labels = Labels.encode(split.labels, alphabet)
    reader = ImageReader(preprocessing, cache_bytes=0)
    test = PreparedSplit(split, labels, reader, time_steps, max_missing=1.0)
    warn(label_findings({"test": split}, {"test": labels}))
    warn(image_findings({"test": test}, time_steps))
    return test


def find_benchmark(directory: Path, name: str = "test") -> Split:
    """Returns that split of a folder or database, or all of it; no image is read.

    Raises:
      DataError: as `load_benchmark`.
    """
    with errors_of(directory):
        source = "lmdb" if any(map(is_database, (directory, directory / "test"))) else "folder"
    splits = sources.SOURCES[source]({"dir": str(directory)})
    return splits[name] if name in splits else next(iter(splits.values()))


def check_dataset(config: Config) -> Report:
    """Reads all the data and reports what is wrong with it; nothing is dropped.

    Raises:
      ConfigError: a setting makes no sense.
      DataError: there is no such data, or a label file cannot be understood.
    """
    check_config(config)
    preprocessing = config_preprocessing(config)
    reader = ImageReader(preprocessing, cache_bytes=0)
    splits = sources.load_splits(config.data, config.seed, reader.examine)
    alphabet = choose_alphabet(config, splits)
    labels = _encode(splits, alphabet)
    time_steps = config_time_steps(config)
    prepared = {
        name: PreparedSplit(split, labels[name], reader, time_steps)
        for name, split in splits.items()
    }
    findings = [*label_findings(splits, labels), *image_findings(prepared, time_steps)]
    first = next(iter(prepared.values()))  # train, or the only one
    buckets = choose_buckets(first.widths, config.data.buckets)
    train_command = ""
    if "train" in splits and config.data.source != sources.MIXTURE:
        train_command = (
            "python -m crnn_jax.main --config captcha"
            f" {sources.flags_of(config.data)} --workdir runs/mine"
        )
    return Report(judge(findings, config.data), prepared, alphabet, buckets, train_command)


def config_preprocessing(config: Config) -> Preprocessing:
    """Returns the preprocessing that a config describes."""
    data = config.data
    return Preprocessing(
        height=data.height,
        channels=data.channels,
        width=data.width,
        max_width=data.max_width,
        invert=data.invert,
    )


def config_time_steps(config: Config) -> TimeSteps:
    """Returns the function that gives the time steps of a config's network for widths in pixels."""
    return Architecture.of(config.model.name, config.model).time_steps


def choose_alphabet(config: Config, splits: Mapping[str, Split]) -> Alphabet:
    """Returns the alphabet that a config names, or else the characters of the labels.

    These are the labels that are trained on or validated with; without any, all of them.
    Characters that no alphabet may have are left out; the data checks report them as unseen.
    """
    settings = config.alphabet
    if settings.characters:
        return Alphabet(settings.characters, settings.ignore_case)
    if settings.file:
        return Alphabet.from_file(settings.file, settings.ignore_case)
    trained_on = [splits[name] for name in ("train", "validation") if name in splits]
    labels = (label for split in trained_on or splits.values() for label in split.labels)
    texts = ("".join(filter(may_belong, label)) for label in labels)
    return Alphabet.from_labels(texts, settings.ignore_case)


def _encode(splits: Mapping[str, Split], alphabet: Alphabet) -> dict[str, Labels]:
    return {name: Labels.encode(split.labels, alphabet) for name, split in splits.items()}


def _require(name: str, splits: Iterable[str], config: Config) -> None:
    if name not in splits:
        data = config.data
        where = "the mixture" if data.source == sources.MIXTURE else sources.flags_of(data)
        raise DataError(f"the data of {where} has no {name} images; {ADD[name]}")


def _max_missing(config: Config, share: float) -> float:
    """The share of images that may be unreadable; `share` if the policy is to drop them."""
    return share if config.data.on_unreadable == "drop" else 0.0
