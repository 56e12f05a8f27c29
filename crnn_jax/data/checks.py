"""Data checks: what is wrong with labeled images, and with which of them."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from crnn_jax.data.images import MIN_WIDTH
from crnn_jax.data.labels import Labels, TimeSteps
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.sources.split import Split, quoted
from crnn_jax.text.alphabet import min_time_steps

Severity: TypeAlias = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")

EMPTY, UNSEEN, UNREADABLE = "empty label", "unseen character", "unreadable image"
NAMED = 10  # characters that a message lists
MIN_HEIGHT = 8  # pixels; lower letters can hardly be told apart
NARROWEST = 2  # pixels; a narrower image has no letter


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one split (or between two), with all samples that have it.

    Attributes:
        kind: two or three words.
        severity: error: training is impossible; warning: it is possible, but results may suffer;
            note: nothing has to be done.
        split: its name, or two names with a comma.
        message: what is wrong and what can be done about it, in one line.
        samples: the samples, each with what is wrong with it.
        places: the split and the index of each sample, for showing the images.
    """

    kind: str
    severity: Severity
    split: str
    message: str
    samples: tuple[str, ...]
    places: tuple[tuple[str, int], ...]


def label_findings(splits: Mapping[str, Split], labels: Mapping[str, Labels]) -> Iterator[Finding]:
    """Yields what is wrong with the labels alone: empty ones, and unseen characters."""
    for name, split in splits.items():
        empty = [index for index, label in enumerate(labels[name].texts) if not label]
        yield from _finding(
            EMPTY,
            "error",
            name,
            f"{len(empty)} {name} label(s) are empty; write the text, or set"
            " --config.data.on_empty_label=drop to train without these images",
            {index: split.names[index] for index in empty},
        )
        unseen = labels[name].unseen
        counts = Counter(itertools.chain.from_iterable(unseen.values()))
        characters = ", ".join(
            f"{character!r} U+{ord(character):04X} ({count})"
            for character, count in counts.most_common(NAMED)
        )
        characters += f" and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
        remedy = (
            "they count as wrong unless you add the characters with --config.alphabet.characters"
            if name == "test"  # nothing is trained on it
            else "correct them, add the characters with --config.alphabet.characters, or set"
            " --config.data.on_unseen=drop to train without these images"
        )
        yield from _finding(
            UNSEEN,
            "warning" if name == "test" else "error",
            name,
            f"{len(unseen)} {name} label(s) have characters outside the alphabet: {characters}; "
            + remedy,
            {index: f"{split.names[index]} {quoted(split.labels[index])}" for index in unseen},
        )


def image_findings(splits: Mapping[str, PreparedSplit], time_steps: TimeSteps) -> Iterator[Finding]:
    """Yields what is wrong with the images: alone, with their labels, and with each other."""
    for name, split in splits.items():
        names = split.split.names
        yield from _finding(
            UNREADABLE,
            "error",
            name,
            f"{len(split.failures)} {name} image(s) cannot be read; restore them, or set"
            " --config.data.on_unreadable=drop to train without them and to count them as wrong in"
            " evaluation",
            {
                # Most reasons name the image, but not the part of a mixture that it belongs to.
                index: reason if names[index] in reason else f"{names[index]}: {reason}"
                for index, reason in split.failures.items()
            },
        )
        yield from _too_long(name, split, time_steps)
        yield from _odd_sizes(name, split)
    yield from _equal_images(splits)


def _too_long(name: str, split: PreparedSplit, time_steps: TimeSteps) -> Iterator[Finding]:
    def least_width(label: str) -> int:
        needed = min_time_steps([ord(character) for character in label])
        widths = itertools.count(MIN_WIDTH)
        return next(width for width in widths if time_steps(width) >= needed)

    samples: dict[int, str] = {}
    for index in np.flatnonzero(~split.mask).tolist():
        if index in split.unseen or index in split.failures:
            continue
        label = split.split.labels[index]
        samples[index] = (
            f"{split.split.names[index]} {quoted(label, 40)} of {len(label)} characters needs"
            f" {least_width(split.labels[index])} px and has {split.widths[index]}"
        )
    yield from _finding(
        "label too long",
        "warning",
        name,
        f"{len(samples)} {name} label(s) are too long for the time steps of their images and cannot"
        " be read; are they the labels of these images?",
        samples,
    )


def _odd_sizes(name: str, split: PreparedSplit) -> Iterator[Finding]:
    preprocessing = split.preprocessing
    squeezed: dict[int, str] = {}
    small: dict[int, str] = {}
    for index, fact in enumerate(split.split.facts):
        if index in split.failures:
            continue
        assert fact and fact.size
        width, height = fact.size
        size = f"{split.split.names[index]}, {width} x {height} px"
        wide = round(width * preprocessing.height / height) > preprocessing.max_width
        if wide and not preprocessing.width:
            squeezed[index] = size
        if height < MIN_HEIGHT or width < NARROWEST:
            small[index] = size
    yield from _finding(
        "very wide image",
        "warning",
        name,
        f"{len(squeezed)} {name} image(s) are so wide that they are squeezed to"
        f" {preprocessing.max_width} px; cut them, or set --config.data.max_width",
        squeezed,
    )
    yield from _finding(
        "very small image",
        "warning",
        name,
        f"{len(small)} {name} image(s) are less than {MIN_HEIGHT} px high or {NARROWEST} px wide;"
        " can you read them yourself?",
        small,
    )


Place: TypeAlias = tuple[str, int]  # a split and an index


def _equal_images(splits: Mapping[str, PreparedSplit]) -> Iterator[Finding]:
    places_of: defaultdict[bytes, list[Place]] = defaultdict(list)
    for name, split in splits.items():
        for index, fact in enumerate(split.split.facts):
            if fact and not fact.failure:
                places_of[fact.digest].append((name, index))
    groups = [places for places in places_of.values() if len(places) > 1]

    def show(places: Iterable[Place], with_labels: bool) -> str:
        return " = ".join(
            f"{name}: {splits[name].split.names[index]}"
            + (f" {quoted(splits[name].split.labels[index])}" if with_labels else "")
            for name, index in places
        )

    def found(
        kind: str, severity: Severity, split: str, message: str, chosen: Sequence[list[Place]]
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

    yield from found(
        "two labels",
        "warning",
        ", ".join(splits),
        "appear several times with different labels; correct the wrong labels",
        [
            places
            for places in groups
            if len({splits[name].labels[index] for name, index in places}) > 1
        ],
    )
    yield from found(
        "in train and test",
        "warning",
        "train, test",
        "of the test set are training images, too; remove them from one of the two",
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
            f"of {name} appear several times",
            [places for places in chosen if len(places) > 1],
        )


def _finding(
    kind: str, severity: Severity, split: str, message: str, samples: Mapping[int, str]
) -> Iterator[Finding]:
    """Yields the finding if there are samples: index in the split -> what is wrong with it."""
    if samples:
        places = tuple((split, index) for index in samples)
        yield Finding(kind, severity, split, message, tuple(samples.values()), places)
