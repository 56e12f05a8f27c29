"""Data checks: what is wrong with labeled images, and with which of them."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from crnn_jax.data.images import MIN_WIDTH, Preprocessing
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.sources.split import Split
from crnn_jax.text.alphabet import Alphabet, min_time_steps

Severity: TypeAlias = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")

EMPTY, UNSEEN, UNREADABLE = "empty label", "unseen character", "unreadable image"
NAMED = 10  # characters that a message names
MIN_HEIGHT = 8  # pixels; letters of fewer can hardly be told apart
NARROWEST = 2  # pixels; what is narrower holds no letter

TimeSteps: TypeAlias = Callable[[int], int]
"""Width of a prepared image in pixels -> time steps that the network has for it."""


@dataclass(frozen=True)
class Finding:
    """One kind of trouble in one split (or between two) and all the samples that have it.

    Attributes:
        kind: two or three words.
        severity: error: training cannot do; warning: it can, to your loss; note: good to know.
        split: its name, or two with a comma.
        message: what is wrong and what can be done, in a line.
        samples: the offenders, each with what is wrong about it.
        places: splits and places of the offenders, for showing their images.
    """

    kind: str
    severity: Severity
    split: str
    message: str
    samples: tuple[str, ...]
    places: tuple[tuple[str, int], ...]


def label_findings(splits: Mapping[str, Split], alphabet: Alphabet) -> Iterator[Finding]:
    """What the labels alone show: those that are empty, and characters the alphabet lacks."""
    for name, split in splits.items():
        empty = [index for index, label in enumerate(split.labels) if not label]
        yield from _finding(
            EMPTY,
            "error",
            name,
            f"{len(empty)} {name} label(s) are empty; write the text, or set "
            "--config.data.on_empty_label=drop to leave such images out of training",
            {index: split.names[index] for index in empty},
        )
        unseen = {
            i: found for i, label in enumerate(split.labels) if (found := alphabet.unseen(label))
        }
        counts = Counter(itertools.chain.from_iterable(unseen.values()))
        characters = ", ".join(
            f"{character!r} U+{ord(character):04X} ({count})"
            for character, count in counts.most_common(NAMED)
        )
        characters += f" and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
        remedy = (
            "they count as wrong, unless you add the characters with --config.alphabet.characters"
            if name == "test"  # which is no part of what is learned
            else "correct them, add the characters with --config.alphabet.characters, or set "
            "--config.data.on_unseen=drop to train without such labels"
        )
        yield from _finding(
            UNSEEN,
            "warning" if name == "test" else "error",
            name,
            f"{len(unseen)} {name} label(s) have characters outside the alphabet: {characters}; "
            + remedy,
            {index: f"{split.names[index]} {split.labels[index]!r}" for index in unseen},
        )


def image_findings(
    splits: Mapping[str, PreparedSplit],
    alphabet: Alphabet,
    preprocessing: Preprocessing,
    time_steps: TimeSteps,
) -> Iterator[Finding]:
    """What the images show, alone, against their labels, and against each other."""
    for name, split in splits.items():
        yield from _finding(
            UNREADABLE,
            "error",
            name,
            f"{len(split.failures)} {name} image(s) cannot be read; restore them, or set "
            "--config.data.on_unreadable=drop to train without them and count them as wrong",
            split.failures,
        )
        yield from _too_long(name, split, alphabet, time_steps)
        yield from _odd_sizes(name, split, preprocessing)
    yield from _equal_images(splits, alphabet)


def too_long(split: PreparedSplit, alphabet: Alphabet, time_steps: TimeSteps) -> dict[int, int]:
    """Places of labels that cannot be aligned with their images: the time steps they need."""
    # By code points, as characters the alphabet lacks have no class.
    needed = (
        min_time_steps([ord(character) for character in alphabet.normalize(label)])
        for label in split.split.labels
    )
    return {
        index: steps
        for index, (steps, width) in enumerate(zip(needed, split.widths, strict=True))
        if steps > time_steps(int(width))
    }


def _too_long(
    name: str, split: PreparedSplit, alphabet: Alphabet, time_steps: TimeSteps
) -> Iterator[Finding]:
    def least_width(steps: int) -> int:
        return next(width for width in itertools.count(MIN_WIDTH) if time_steps(width) >= steps)

    labels, names = split.split.labels, split.split.names
    samples = {
        index: f"{names[index]} {_short(labels[index])} of {len(labels[index])} characters needs "
        f"{least_width(needed)} px and has {split.widths[index]}"
        for index, needed in too_long(split, alphabet, time_steps).items()
        if index not in split.failures
    }
    yield from _finding(
        "label too long",
        "warning",
        name,
        f"{len(samples)} {name} label(s) are too long for the time steps of their images and "
        "cannot be learned or read; are they the labels of these images?",
        samples,
    )


def _odd_sizes(name: str, split: PreparedSplit, preprocessing: Preprocessing) -> Iterator[Finding]:
    squashed: dict[int, str] = {}
    small: dict[int, str] = {}
    for index, (width, height) in enumerate(split.sizes.tolist()):
        if index in split.failures:
            continue
        size = f"{split.split.names[index]}, {width} x {height} px"
        wide = round(width * preprocessing.height / height) > preprocessing.max_width
        if wide and not preprocessing.width:
            squashed[index] = size
        if height < MIN_HEIGHT or width < NARROWEST:
            small[index] = size
    yield from _finding(
        "very wide image",
        "warning",
        name,
        f"{len(squashed)} {name} image(s) are so wide that they are squashed to "
        f"{preprocessing.max_width} px; cut them, or set --config.data.max_width",
        squashed,
    )
    yield from _finding(
        "very small image",
        "warning",
        name,
        f"{len(small)} {name} image(s) are less than {MIN_HEIGHT} px high or {NARROWEST} px "
        "wide; can you read them yourself?",
        small,
    )


def _equal_images(splits: Mapping[str, PreparedSplit], alphabet: Alphabet) -> Iterator[Finding]:
    holders: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for name, split in splits.items():
        for index, digest in enumerate(split.digests):
            if index not in split.failures:
                holders[digest].append((name, index))
    groups = [places for places in holders.values() if len(places) > 1]

    def show(places: Iterable[tuple[str, int]], with_labels: bool) -> str:
        return " = ".join(
            f"{name}: {splits[name].split.names[index]}"
            + (f" {splits[name].split.labels[index]!r}" if with_labels else "")
            for name, index in places
        )

    def found(
        kind: str,
        severity: Severity,
        split: str,
        message: str,
        chosen: Sequence[list[tuple[str, int]]],
    ) -> Iterator[Finding]:
        if chosen:
            yield Finding(
                kind,
                severity,
                split,
                f"{len(chosen)} image(s) {message}",
                tuple(show(places, kind == "two labels") for places in chosen),
                tuple(itertools.chain.from_iterable(chosen)),
            )

    def texts(places: Iterable[tuple[str, int]]) -> set[str]:
        return {alphabet.normalize(splits[name].split.labels[index]) for name, index in places}

    yield from found(
        "two labels",
        "warning",
        ", ".join(splits),
        "stand under different labels, byte for byte the same; correct the wrong ones",
        [places for places in groups if len(texts(places)) > 1],
    )
    yield from found(
        "in train and test",
        "warning",
        "train, test",
        "of the test set are among the training images; take them out of one of them",
        [
            places
            for places in groups
            if {"train", "validation"} & (names := {name for name, _ in places}) and "test" in names
        ],
    )
    for name in splits:
        chosen = [[place for place in places if place[0] == name] for places in groups]
        yield from found(
            "duplicate",
            "note",
            name,
            f"of {name} are there more than once",
            [places for places in chosen if len(places) > 1],
        )


def _finding(
    kind: str, severity: Severity, split: str, message: str, samples: Mapping[int, str]
) -> Iterator[Finding]:
    """The finding, if there are samples: by their place in the split, what is wrong with them."""
    if samples:
        places = tuple((split, index) for index in samples)
        yield Finding(kind, severity, split, message, tuple(samples.values()), places)


def _short(label: str) -> str:
    return repr(label if len(label) <= 40 else label[:37] + "...")
