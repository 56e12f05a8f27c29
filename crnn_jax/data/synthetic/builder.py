"""The TFDS builder of drawn images; it draws with as many processes as there are cores."""

import dataclasses
import io
import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeAlias

import tensorflow_datasets as tfds

from crnn_jax.data.workers import end_with_parent, main_module_hidden

Sample: TypeAlias = tuple[str, bytes]
"""A text and its encoded image."""

Drawing: TypeAlias = Callable[[], Sample]
"""Draws one sample; it can be sent to another process."""

_CHUNK = 32  # samples that a process draws at a time
_AHEAD = 8  # chunks per process that may be drawn ahead, so that memory stays bounded
_WORTH = 1_000  # samples that are worth another process, which takes seconds to start


@dataclasses.dataclass(eq=False, kw_only=True)
class GeneratedConfig(tfds.core.BuilderConfig):
    """A variant of a data set."""

    num_train: int
    num_test: int
    seed: int = 0

    def drawings(self, split: str) -> Iterable[Drawing]:
        """Returns functions that draw the samples of 'train' or 'test'.

        Raises:
            ConfigError: a package that they need is not installed.
        """
        raise NotImplementedError


class GeneratedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds data sets with the features `image` and `text`; its configs say what they contain."""

    VERSION = tfds.core.Version("1.0.0")
    # No checksums, as nothing is downloaded. Otherwise TFDS would look for a file of them with the
    # package importlib_resources, which is not among its dependencies (as of 4.9.10).
    url_infos = None

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        assert isinstance(config, GeneratedConfig)
        count = {"train": config.num_train, "test": config.num_test}[split]
        processes = min(os.cpu_count() or 1, 1 + count // _WORTH)
        for index, (text, image) in enumerate(_drawn(config.drawings(split), processes)):
            # A file object is stored as it is; an array would need TensorFlow to encode it.
            yield index, {"image": io.BytesIO(image), "text": text}


def _drawn(drawings: Iterable[Drawing], processes: int) -> Iterator[Sample]:
    """Yields the samples in order."""
    remaining = iter(drawings)
    chunks = iter(lambda: list(itertools.islice(remaining, _CHUNK)), [])
    waiting: deque[Future[list[Sample]]] = deque()
    # Spawned, because forking a process with the threads of JAX can deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=end_with_parent)
    with main_module_hidden(), pool:
        for chunk in chunks:
            waiting.append(pool.submit(_draw, chunk))
            if len(waiting) >= _AHEAD * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _draw(drawings: Iterable[Drawing]) -> list[Sample]:
    return [drawing() for drawing in drawings]
