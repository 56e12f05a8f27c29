"""Images of any kind become arrays; files are decoded in threads, ahead of the network."""

import itertools
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from crnn_jax.data.images import ImageLike, Preprocessing, decode, pillow_warnings_off, resize
from crnn_jax.errors import DataError
from crnn_jax.recognition.image_files import read_file

ImageSource: TypeAlias = str | os.PathLike[str] | ImageLike
"""The path of an image file, or an `ImageLike`: its bytes, a Pillow image, or an array uint8."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network takes it.

    Attributes:
      pixels: uint8 (H, W, C).
      width: that of the original image in pixels, after it was turned upright.
    """

    pixels: np.ndarray
    width: int

    @classmethod
    def of(cls, image: Image.Image, preprocessing: Preprocessing) -> "Prepared":
        """Resizes a decoded image."""
        return cls(resize(image, preprocessing), image.width)


AHEAD = 1  # groups that are prepared while the caller works on another
_CHUNK = 8  # images that a thread prepares at a time, as handing over one alone takes a while
# Pillow decodes and resizes without the interpreter's lock. The rest needs it, so that a few
# threads are enough.
_THREADS = min(4, os.cpu_count() or 1)


def decode_image(image: ImageSource, preprocessing: Preprocessing, place: int = 0) -> Image.Image:
    """Decodes an image. Errors name its path, or else its place among the others.

    Raises:
      DataError: the image cannot be read.
      TypeError: the image is of another type.
    """
    if isinstance(image, str | os.PathLike):
        return decode(read_file(image), preprocessing, os.fspath(image))
    return decode(image, preprocessing, f"image {place}")


def prepare_image(
    image: ImageSource, preprocessing: Preprocessing, place: int = 0
) -> Prepared | DataError:
    """Decodes and resizes an image, or returns why that is not possible.

    Raises:
      TypeError: the image is of another type.
    """
    try:
        return Prepared.of(decode_image(image, preprocessing, place), preprocessing)
    except DataError as error:
        return error


def prepare_groups(
    images: Iterable[ImageSource], preprocessing: Preprocessing, size: int
) -> Generator[list[Prepared | DataError], None, None]:
    """Prepares images in groups of `size`, in their order; the last group may be smaller.

    While the caller works on a group, the next one is prepared in threads. They end when the
    generator is closed. Pillow images and arrays are prepared as soon as they are taken, as their
    owner may change them when the next one is asked for: iterators over the frames of a video do.

    Raises:
      TypeError: an image is of another type.
    """

    def take(place: int, image: ImageSource) -> tuple[int, ImageSource] | Prepared | DataError:
        if isinstance(image, bytearray | memoryview):
            image = bytes(image)
        if isinstance(image, str | os.PathLike | bytes):
            return place, image
        return prepare_image(image, preprocessing, place)

    def finish(
        chunk: Sequence[tuple[int, ImageSource] | Prepared | DataError],
    ) -> list[Prepared | DataError]:
        with pillow_warnings_off:
            return [
                prepare_image(one[1], preprocessing, one[0]) if isinstance(one, tuple) else one
                for one in chunk
            ]

    taken = itertools.starmap(take, enumerate(images))
    pool = ThreadPoolExecutor(_THREADS, "crnn_jax_prepare")
    groups: deque[list[Future[list[Prepared | DataError]]]] = deque()
    try:
        while group := list(itertools.islice(taken, size)):
            chunks = (group[start : start + _CHUNK] for start in range(0, len(group), _CHUNK))
            groups.append([pool.submit(finish, chunk) for chunk in chunks])
            if len(groups) > AHEAD:
                yield _joined(groups.popleft())
        while groups:
            yield _joined(groups.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(chunks: Iterable[Future[list[Prepared | DataError]]]) -> list[Prepared | DataError]:
    return [image for chunk in chunks for image in chunk.result()]
