"""Labeled images behind one interface, `Split`; joining them, and dividing them by chance."""

import bisect
import dataclasses
import hashlib
import itertools
import random
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from crnn_jax.errors import ConfigError, DataError


@dataclass(frozen=True)
class Split:
    """N labeled images: names and texts in memory, encoded images read on demand.

    Attributes:
        names: N names that tell a user which image is meant.
        labels: N texts, NFC; empty where the source has none.
        read: index in [0, N) -> the encoded image; it raises DataError where there is none, and
            can be pickled into worker processes.
        parts: of a mixture, N names of the parts that the images come from; else empty.
        digests: N `digest`s of the images, of a source that reads them with their texts; else
            empty.
        sizes: N sizes (width, height) in pixels, of a source whose images are known to be whole,
            and has digests; else empty.
        drawn: whether chance has drawn the images from a larger set.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    read: Callable[[int], bytes]
    parts: tuple[str, ...] = ()
    digests: tuple[bytes, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    drawn: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Iterable[int]) -> "Split":
        """Return the images at `indices`, in that order."""
        indices = tuple(indices)
        return Split(
            names=tuple(self.names[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            read=_Selected(self.read, indices),
            parts=tuple(self.parts[i] for i in indices) if self.parts else (),
            digests=tuple(self.digests[i] for i in indices) if self.digests else (),
            sizes=tuple(self.sizes[i] for i in indices) if self.sizes else (),
            drawn=self.drawn,
        )


def join(parts: Mapping[str, Split]) -> Split:
    """Put the parts of a mixture one after the other; names begin with that of the part."""
    splits = parts.values()
    starts = itertools.accumulate(map(len, splits), initial=0)
    return Split(
        names=tuple(f"{part}:{name}" for part, split in parts.items() for name in split.names),
        labels=tuple(itertools.chain.from_iterable(split.labels for split in splits)),
        read=_Joined(tuple(split.read for split in splits), tuple(starts)),
        parts=tuple(part for part, split in parts.items() for _ in range(len(split))),
        drawn=any(split.drawn for split in splits),
    )


def random_split(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide `split` by chance, the same for the same seed: (rest, chosen).

    Images of equal text stay together, and so do images of equal bytes. Whole groups of them
    are drawn as near to `fraction` as their order by chance allows: exactly where all differ,
    else within half a group. The order of the images is kept; with `fraction` 0 none are
    chosen.

    Raises:
        ConfigError: `fraction` is outside [0, 1).
        DataError: there are too few different texts, so that one side would be empty.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"cannot split off a fraction of {fraction}; set it in [0, 1)")
    drawn = _groups(split)
    random.Random(seed).shuffle(drawn)
    wanted = fraction * len(split)
    chosen: set[int] = set()
    too_large: list[list[int]] = []
    for group in drawn:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
        else:
            too_large.append(group)
    missing = wanted - len(chosen)
    smallest = min(too_large, key=len, default=[])
    if len(smallest) - missing < missing:
        chosen.update(smallest)
    if fraction and not 0 < len(chosen) < len(split):
        raise DataError(
            f"{len(split)} images with {len(drawn)} different texts cannot be split at the "
            f"fraction {fraction}; add images with other texts or change the fraction"
        )
    rest = (index for index in range(len(split)) if index not in chosen)
    drawn = dataclasses.replace(split, drawn=True)
    return drawn.select(rest), drawn.select(sorted(chosen))


def digest(image: bytes) -> bytes:
    """16 bytes that are equal for images of equal bytes, and for no others."""
    return hashlib.blake2b(image, digest_size=16).digest()


def nfc(text: str) -> str:
    """`text` in Unicode's composed form, the one that labels have."""
    return unicodedata.normalize("NFC", text)


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
    """The places of images that must not be parted, by the least text of each group."""
    groups = {index: [index] for index in range(len(split))}
    group_of = list(range(len(split)))
    first: dict[str | bytes, int] = {}
    for keys in ([nfc(label) for label in split.labels], split.digests or _digests(split)):
        for index, key in enumerate(keys):
            if key is None:
                continue
            old, new = group_of[index], group_of[first.setdefault(key, index)]
            if old != new:
                # The smaller group moves, so that many equal images take no quadratic time.
                old, new = sorted((old, new), key=lambda name: len(groups[name]))
                for member in groups[old]:
                    group_of[member] = new
                groups[new] += groups.pop(old)
    members = map(sorted, groups.values())
    return sorted(members, key=lambda group: min(nfc(split.labels[index]) for index in group))


def _digests(split: Split) -> Iterable[bytes | None]:
    """The digest of each image; None for those that cannot be read."""
    # One after the other: with threads, files that are near take three times as long.
    for index in range(len(split)):
        try:
            yield digest(split.read(index))
        except DataError:
            yield None
