"""Labeled images behind one interface, `Split`; joining splits, and drawing one from another."""

import bisect
import dataclasses
import hashlib
import itertools
import random
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from crnn_jax.errors import ConfigError, DataError


class ImageFacts(NamedTuple):
    """What is known of an image file after reading it once.

    Attributes:
        digest: see `digest`; empty if the file could not be read.
        size: width and height of the upright image in pixels; (0, 0) if it could not be decoded,
            None if that was not tried.
        failure: why it could not be read or decoded; else empty.
    """

    digest: bytes
    size: tuple[int, int] | None = None
    failure: str = ""


@dataclass(frozen=True)
class Split:
    """N labeled images: names and labels in memory, encoded images read on demand.

    Attributes:
        names: N names that identify the images in messages.
        labels: N texts in NFC; empty where the source has none.
        read: index in [0, N) -> the encoded image. It raises DataError if there is none, and can be
            pickled for worker processes.
        parts: for a mixture, the names of the N images' parts; else empty.
        facts: N facts, None for images that have not been read; empty if none have.
        drawn: whether the images were drawn at random from a larger set.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    read: Callable[[int], bytes]
    parts: tuple[str, ...] = ()
    facts: tuple[ImageFacts | None, ...] = ()
    drawn: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Iterable[int]) -> "Split":
        """Returns the images at `indices`, in that order."""
        indices = tuple(indices)
        return Split(
            names=tuple(self.names[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            read=_Selected(self.read, indices),
            parts=tuple(self.parts[i] for i in indices) if self.parts else (),
            facts=tuple(self.facts[i] for i in indices) if self.facts else (),
            drawn=self.drawn,
        )


def join(parts: Mapping[str, Split]) -> Split:
    """Concatenates the parts of a mixture; the names get the part as a prefix."""
    splits = parts.values()
    starts = itertools.accumulate(map(len, splits), initial=0)
    return Split(
        names=tuple(f"{part}:{name}" for part, split in parts.items() for name in split.names),
        labels=tuple(itertools.chain.from_iterable(split.labels for split in splits)),
        read=_Joined(tuple(split.read for split in splits), tuple(starts)),
        parts=tuple(part for part, split in parts.items() for _ in range(len(split))),
        facts=tuple(
            itertools.chain.from_iterable(split.facts or (None,) * len(split) for split in splits)
        ),
        drawn=any(split.drawn for split in splits),
    )


def random_split(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divides `split` at random into (rest, drawn); the same seed gives the same splits.

    Images with equal labels stay together, and so do images of equal bytes. Whole groups of them
    are drawn, in random order, until `fraction` of the images is reached: exactly if all images
    differ, else to within half a group. Both splits keep the order of the images.

    Raises:
        ConfigError: `fraction` is outside [0, 1).
        DataError: there are too few different labels, so that one of the splits would be empty.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"cannot draw a fraction of {fraction}; set it in [0, 1)")
    if not fraction:
        return split, split.select(())
    split = with_digests(split)
    groups = _groups(split)
    random.Random(seed).shuffle(groups)
    wanted = fraction * len(split)
    chosen: set[int] = set()
    too_large: list[list[int]] = []
    for group in groups:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
        else:
            too_large.append(group)
    lacking = wanted - len(chosen)
    smallest = min(too_large, key=len, default=[])
    if len(smallest) - lacking < lacking:
        chosen.update(smallest)
    if not 0 < len(chosen) < len(split):
        raise DataError(
            f"a fraction of {fraction} cannot be drawn from {len(split)} images with"
            f" {len(groups)} different labels; add images with other labels, or change the fraction"
        )
    rest = (index for index in range(len(split)) if index not in chosen)
    split = dataclasses.replace(split, drawn=True)
    return split.select(rest), split.select(sorted(chosen))


def with_digests(split: Split) -> Split:
    """Returns the split with facts of all images; those without facts are read for a digest."""
    facts = split.facts or (None,) * len(split)
    # Without threads, which take three times as long on files that are in memory.
    known = (fact or ImageFacts(_digest(split, index)) for index, fact in enumerate(facts))
    return dataclasses.replace(split, facts=tuple(known))


def digest(image: bytes) -> bytes:
    """Returns 16 bytes that are equal for equal files, and for no others."""
    return hashlib.blake2b(image, digest_size=16).digest()


def nfc(text: str) -> str:
    """Returns `text` in Unicode's composed form, which labels have."""
    return unicodedata.normalize("NFC", text)


def quoted(text: str, length: int = 80) -> str:
    """Returns a text for a message: in quotes, and without its end if it is too long."""
    return repr(text if len(text) <= length else text[: length - 3] + "...")


@dataclass(frozen=True)
class _Selected:
    read: Callable[[int], bytes]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> bytes:
        return self.read(self.indices[index])


@dataclass(frozen=True)
class _Joined:
    reads: tuple[Callable[[int], bytes], ...]
    starts: tuple[int, ...]

    def __call__(self, index: int) -> bytes:
        part = bisect.bisect_right(self.starts, index) - 1
        return self.reads[part](index - self.starts[part])


def _groups(split: Split) -> list[list[int]]:
    """Indices of the images that have to stay together, sorted by the first label of each group."""
    # Imported here because it takes a third of a second, which few commands need.
    from scipy.cluster.hierarchy import DisjointSet

    labels: DisjointSet = DisjointSet(split.labels)
    label_of: dict[bytes, str] = {}
    for label, fact in zip(split.labels, split.facts, strict=True):
        if fact and fact.digest:
            labels.merge(label, label_of.setdefault(fact.digest, label))
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(split.labels):
        groups[labels[label]].append(index)
    return sorted(groups.values(), key=lambda group: min(split.labels[i] for i in group))


def _digest(split: Split, index: int) -> bytes:
    try:
        return digest(split.read(index))
    except DataError:
        return b""
