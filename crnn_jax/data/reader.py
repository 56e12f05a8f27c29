"""Reading images: each is examined once, and kept in memory while there is room."""

import dataclasses
import itertools
import os
import sys
import threading
from typing import Any

import grain
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from crnn_jax.data.images import (
    Preprocessing,
    decode,
    pillow_warnings_off,
    prepare,
    resize,
    target_width,
)
from crnn_jax.data.sources.split import ImageFacts, Split, digest
from crnn_jax.errors import DataError

_CHUNK = 32  # images that a thread reads at a time
# More threads than cores wait for the interpreter's lock: four on two cores take a fifth longer.
_THREADS = min(4, os.cpu_count() or 1)


class ImageReader:
    """Reads the images of all splits of a run.

    Prepared images are kept in memory until `cache_bytes` are used. Others are read from their
    source each time. The cache is shared by all threads and splits; worker processes get an empty
    one without room.

    Attributes:
        preprocessing: size and kind of the prepared images.
        cache_bytes: the size of the cache.
        cached_bytes: how much of it is used. An image that was smaller before it was resized is
            kept in that form until its first use, but is counted in full.
    """

    def __init__(self, preprocessing: Preprocessing, cache_bytes: int) -> None:
        self.preprocessing = preprocessing
        self.cache_bytes = cache_bytes
        self.cached_bytes = 0
        self._cache: dict[bytes, np.ndarray] = {}  # by digest, so equal files share an entry
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["preprocessing"], cache_bytes=0)

    def examine(self, split: Split) -> Split:
        """Reads and decodes the images whose size is not known, and fills the cache with them.

        Returns:
            The split with facts of all images. Unreadable images do not raise: their facts say why.
        """
        facts = list(split.facts or (None,) * len(split))
        unknown = [i for i, fact in enumerate(facts) if fact is None or fact.size is None]
        if not unknown:
            return split
        # Threads are enough, as Pillow decodes and resizes without holding the interpreter's lock.
        # They work on chunks, as handing over an image takes a quarter of the time to decode it.
        chunks = (
            grain.MapDataset.range(0, len(unknown), _CHUNK)
            .map(lambda start: [self._examined(split, i) for i in unknown[start:][:_CHUNK]])
            .to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=8))
        )
        # The bar goes to standard error, as standard output is for results. Forcing colors, as
        # notebooks and CI systems do with FORCE_COLOR, must not fill a log with redrawn bars.
        console = Console(stderr=True, force_jupyter=False, force_terminal=sys.stderr.isatty())
        examined = zip(unknown, itertools.chain.from_iterable(chunks), strict=True)
        with pillow_warnings_off:
            for index, (fact, image) in track(
                examined, "reading images", total=len(unknown), console=console
            ):
                facts[index] = fact
                if image is not None:
                    self._keep(fact, image)
        return dataclasses.replace(split, facts=tuple(facts))

    def width(self, fact: ImageFacts) -> int:
        """Returns the width in pixels of the prepared image of an examined file."""
        assert fact.size
        return target_width(fact.size, self.preprocessing)

    def image(self, split: Split, index: int) -> np.ndarray:
        """Returns a prepared image (H, W, C) uint8 of an examined split.

        Raises:
            DataError: it cannot be read.
        """
        fact = split.facts[index]
        assert fact
        image = self._cache.get(fact.digest)
        if image is None:
            image = prepare(split.read(index), self.preprocessing, split.names[index])
            if not fact.failure:
                self._keep(fact, image)
        elif image.shape[:2] != (self.preprocessing.height, self.width(fact)):
            image = self._cache[fact.digest] = resize(Image.fromarray(image), self.preprocessing)
        return image

    def _examined(self, split: Split, index: int) -> tuple[ImageFacts, np.ndarray | None]:
        """The facts of an image, and what the cache should keep of it, if it has room."""
        known = split.facts[index] if split.facts else None
        file_digest = known.digest if known else b""
        try:
            data = split.read(index)
            file_digest = file_digest or digest(data)
            image = decode(data, self.preprocessing, split.names[index])
        except DataError as error:
            return ImageFacts(file_digest, (0, 0), str(error)), None
        fact = ImageFacts(file_digest, image.size)
        if not self._has_room(fact):
            return fact, None
        # Resizing waits for the first use if the image is smaller before it.
        smaller = image.width * image.height < self.width(fact) * self.preprocessing.height
        return fact, np.asarray(image) if smaller else resize(image, self.preprocessing)

    def _has_room(self, fact: ImageFacts) -> bool:
        return self.cached_bytes + self._bytes(fact) <= self.cache_bytes

    def _keep(self, fact: ImageFacts, image: np.ndarray) -> None:
        with self._lock:
            if fact.digest not in self._cache and self._has_room(fact):
                self._cache[fact.digest] = image
                self.cached_bytes += self._bytes(fact)

    def _bytes(self, fact: ImageFacts) -> int:
        """Bytes of the prepared image."""
        return self.preprocessing.height * self.width(fact) * self.preprocessing.channels
