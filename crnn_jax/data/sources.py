"""Labelled pictures from where they lie, behind one interface: `Split`."""

import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crnn_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from crnn_jax.data.generated_captcha import Source


@dataclass(frozen=True)
class Split:
    """N labelled pictures: names and texts in memory, encoded pictures read on demand.

    Attributes:
        names: N names that tell a user which picture is meant.
        labels: N texts, NFC.
        read: index in [0, N) -> the encoded picture; it can be pickled into worker processes.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Iterable[int]) -> "Split":
        """Return the pictures at `indices`, in that order."""
        indices = tuple(indices)
        return Split(
            names=tuple(self.names[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            read=_Selected(self.read, indices),
        )


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide `split` by chance, the same for the same seed: (rest, held out).

    Pictures of equal text stay together. Whole groups of them are drawn as near to `fraction`
    as their order by chance allows: exactly where texts differ, else within half a group. The
    order of the pictures is kept; with `fraction` 0 none are held out.

    Raises:
        ConfigError: `fraction` is outside [0, 1).
        DataError: there are too few different texts, so that one side would be empty.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"cannot hold out a fraction of {fraction}; set it in [0, 1)")
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(split.labels):
        groups.setdefault(_nfc(label), []).append(index)
    drawn = [groups[text] for text in sorted(groups)]
    random.Random(seed).shuffle(drawn)
    wanted = fraction * len(split)
    held: set[int] = set()
    too_large: list[list[int]] = []
    for group in drawn:
        if len(held) + len(group) <= wanted:
            held.update(group)
        else:
            too_large.append(group)
    missing = wanted - len(held)
    smallest = min(too_large, key=len, default=[])
    if len(smallest) - missing < missing:
        held.update(smallest)
    if fraction and not 0 < len(held) < len(split):
        raise DataError(
            f"{len(split)} pictures with {len(groups)} different texts cannot be split at the "
            f"fraction {fraction}; add pictures with other texts or change the fraction"
        )
    rest = (index for index in range(len(split)) if index not in held)
    return split.select(rest), split.select(sorted(held))


def folder(directory: Path, test_fraction: float, seed: int) -> dict[str, Split]:
    """Read 'train' and 'test' from a folder of pictures with label files.

    These are `train.tsv` and `test.tsv`, or else `labels.tsv`, of which `hold_out` makes the
    test split. They are UTF-8 with lines of picture, tab, text: the picture's name is relative
    to the folder or to its `images/`, and the text is all after the first tab, spaces included.

    Raises:
        ConfigError: `test_fraction` is not in (0, 1), where it is needed.
        DataError: the folder, a label file or a picture is missing, or a line is unusable.
    """
    if not directory.is_dir():
        raise DataError(f"there is no folder {str(directory)!r}; check the path")
    train, test, labels = (directory / f"{name}.tsv" for name in ("train", "test", "labels"))
    if train.is_file():
        if not test.is_file():
            raise DataError(
                f"{str(test)!r} is missing beside train.tsv; add it, or rename train.tsv to "
                "labels.tsv to have a test split drawn from it"
            )
        return {"train": _read_labels(train), "test": _read_labels(test)}
    if not labels.is_file():
        raise DataError(
            f"the folder {str(directory)!r} has neither train.tsv nor labels.tsv; "
            "add one with lines of picture, tab, text"
        )
    if not 0 < test_fraction < 1:
        raise ConfigError(
            f"cannot draw a test split of {test_fraction} from {str(labels)!r}; set a fraction "
            "between 0 and 1, or write train.tsv and test.tsv"
        )
    rest, held = hold_out(_read_labels(labels), test_fraction, seed)
    return {"train": rest, "test": held}


def generated_captcha(variant: str, directory: str | None) -> dict[str, Split]:
    """Return 'train' and 'test' of the generated captchas, drawn first where not yet stored.

    `directory` is where TFDS stores data sets; None is its own default.

    Raises:
        DataError: there is no such variant, or drawing failed.
    """
    # Here, as importing tensorflow_datasets takes seconds that other sources need not pay.
    from crnn_jax.data.generated_captcha import load as open_split

    splits: dict[str, Split] = {}
    for split in ("train", "test"):
        source = open_split(variant, split, directory)
        examples = (source[index] for index in range(len(source)))
        texts = {example["name"]: _nfc(example["text"]) for example in examples}
        splits[split] = Split(tuple(texts), tuple(texts.values()), _Generated(source))
    return splits


def load(
    source: str, directory: str | None, variant: str, test_fraction: float, seed: int
) -> dict[str, Split]:
    """Return the splits 'train' and 'test' of one of the `SOURCES`; see there for the rest.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: its data is missing or unusable.
    """
    if source not in SOURCES:
        raise ConfigError(f"unknown data source {source!r}; choose from {', '.join(SOURCES)}")
    return SOURCES[source](directory, variant, test_fraction, seed)


def load_splits(settings: Mapping[str, Any], seed: int) -> dict[str, Split]:
    """Return the splits 'train', 'validation' and 'test' that the settings `data` describe.

    The validation split is held out of the source's training split.

    Raises:
        ConfigError: the source is unknown or lacks a setting.
        DataError: its data is missing or unusable.
    """
    splits = load(
        settings["source"], settings["dir"], settings["variant"], settings["test_fraction"], seed
    )
    train, validation = hold_out(splits["train"], settings["validation_fraction"], seed)
    return {"train": train, "validation": validation, "test": splits["test"]}


def _load_folder(
    directory: str | None, _variant: str, test_fraction: float, seed: int
) -> dict[str, Split]:
    if not directory:
        raise ConfigError("the data source 'folder' needs its folder; set --config.data.dir=DIR")
    return folder(Path(directory), test_fraction, seed)


def _load_generated(
    directory: str | None, variant: str, _test_fraction: float, _seed: int
) -> dict[str, Split]:
    return generated_captcha(variant, directory or None)


SOURCES: dict[str, Callable[[str | None, str, float, int], dict[str, Split]]] = {
    "folder": _load_folder,
    "generated": _load_generated,
}
"""Name -> function of (directory, variant, test_fraction, seed)."""


@dataclass(frozen=True)
class _Selected:
    read: Callable[[int], bytes]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> bytes:
        return self.read(self.indices[index])


@dataclass(frozen=True)
class _Files:
    paths: tuple[Path, ...]

    def __call__(self, index: int) -> bytes:
        path = self.paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read picture {str(path)!r} ({error.strerror}); "
                "restore it, or take it out of the label file"
            ) from error


@dataclass(frozen=True)
class _Generated:
    source: "Source"

    def __call__(self, index: int) -> bytes:
        return self.source[index]["image"]


def _read_labels(file: Path) -> Split:
    names: list[str] = []
    labels: list[str] = []
    places: dict[Path, str] = {}  # picture -> the place that lists it
    for place, line in _lines(file):
        name, tab, label = line.partition("\t")
        if not tab:
            raise DataError(f"{place}: no tab in {line!r}; write picture, tab, text")
        if not label:
            raise DataError(f"{place}: no text for {name!r}; write it after the tab")
        path = _find(file.parent, name, place)
        if path in places:
            raise DataError(
                f"{place}: picture {name!r} is listed already at {places[path]}; remove one line"
            )
        places[path] = place
        names.append(name)
        labels.append(_nfc(label))
    if not names:
        raise DataError(f"{file}: the label file is empty; add lines of picture, tab, text")
    return Split(tuple(names), tuple(labels), _Files(tuple(places)))


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (file:line, content) of the lines that are not blank."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the label file {str(file)!r} ({error.strerror}); check its rights"
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object, as the position does not count a byte-order mark.
        number = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{number}: not UTF-8; save the file as UTF-8") from error
    # Not splitlines(): it would also break texts at form feeds and Unicode's line separators.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.strip(" "):
            yield f"{file}:{number}", line


def _find(directory: Path, name: str, place: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(
            f"{place}: picture {name!r} lies outside the folder; "
            "move it there and name it relative to the folder"
        )
    for path in (directory / name, directory / "images" / name):
        if path.is_file():
            return path
    raise DataError(
        f"{place}: there is no picture {name!r} in {str(directory)!r} or its images/; "
        "add it or remove the line"
    )


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
