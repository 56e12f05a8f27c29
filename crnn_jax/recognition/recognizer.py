"""Reading images with a trained model."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self, TypeAlias, Unpack, overload

import jax
import numpy as np
from flax import linen as nn
from PIL import Image

from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.images import MIN_WIDTH, ImageLike, pad_batch, prepare
from crnn_jax.decoding import Decoder, Decoding
from crnn_jax.decoding.options import (
    DEFAULT_LANGUAGE_WEIGHT,
    DecodingOptions,
    make_decoder,
)
from crnn_jax.errors import DataError
from crnn_jax.recognition.image_files import read_file
from crnn_jax.recognition.results import Alternative, Recognition
from crnn_jax.recognition.trained_model import BEST, TrainedModel
from crnn_jax.text.constraints import Length
from crnn_jax.text.language_model import LanguageModel

ImageSource: TypeAlias = str | os.PathLike[str] | ImageLike
"""The path of an image file, or an `ImageLike`: its bytes, a Pillow image, or an array uint8."""

# Each batch shape costs a compilation, which takes as long as reading 500 images, and in later
# processes a trace, which takes as long as 60. So there are few shapes, in geometric steps.
WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
BATCH_SIZES = (1, 8, 32, 128, 512)
READ_AHEAD = 4  # batches, whose images are sorted by width


class Recognizer:
    """Reads images of one line of text.

    >>> recognizer = Recognizer.load()  # the pretrained captcha model
    >>> recognizer("captcha.png")
    Recognition('226md', confidence=0.678)
    >>> [result.text for result in recognizer(["a.png", "b.png"])]
    ['226md', '2356g']

    Images may have any size. They are preprocessed as in training: turned upright (EXIF), composed
    onto white where they are transparent, and resized to the height of the model. Several threads
    can use one recognizer, and it can be pickled.

    Attributes:
      model: the trained model that it reads with.
    """

    def __init__(self, model: TrainedModel, **options: Unpack[DecodingOptions]) -> None:
        """Takes the options of decoding that `load` takes."""
        self.model = model
        self._options = options
        self._decoder = make_decoder(model.alphabet, model.charsets, **options)
        self._variables = jax.device_put(model.variables)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        step: int = BEST,
        *,
        alphabet: str | None = None,
        length: Length | None = None,
        shape: str | None = None,
        lexicon: Sequence[str] | None = None,
        caseless: bool = False,
        beam_width: int | None = None,
        language_model: LanguageModel | None = None,
        language_weight: float = DEFAULT_LANGUAGE_WEIGHT,
    ) -> Self:
        """Loads a trained model.

        What is known of the texts helps to read them. No other texts are then read.

        Compiled programs are kept in the user's cache folder, unless JAX is configured otherwise.

        Args:
          model: a workdir, or the name of a pretrained model; `captcha` by default.
          step: the checkpoint to load; by default the one with the best validation metrics.
          alphabet: the characters that occur, such as "0123456789", or one of the names in
            `CHARSETS`, such as "digits". "all" are all characters that the model knows. By default
            the pretrained model captcha decides for each image which set its characters are of.
          length: the number of characters, or the least and the most of them.
          shape: a regular expression of the whole text, such as "[A-Z]{3}-[0-9]{4}". With caseless,
            its letters stand for both cases.
          lexicon: the words that may occur, the most likely first. Of many words those are compared
            that are the nearest to what would be read without them.
          caseless: read in lower case; the probabilities of both cases of a character are added.
            Words of a lexicon are read as they are written there.
          beam_width: read with a beam search that follows so many texts, such as 10. It adds up the
            alignments of each text, and finds alternatives. By default the most likely alignment is
            read. With a lexicon there is no beam: its words are the alternatives.
          language_model: how likely texts are in a language. The beam is then 10 wide by default.
          language_weight: how much the language model counts.

        Raises:
          CheckpointError: there is no such model or step, or it cannot be read.
          ConfigError: the model cannot read one of the characters, or the length, the shape, the
            lexicon, the beam width or the weight cannot be used.

        Example:
          >>> Recognizer.load("runs/captcha")
          Recognizer(runs/captcha, step 12240, 36 characters)
        """
        trained = TrainedModel.load(model, step)
        return cls(
            trained,
            alphabet=alphabet,
            length=length,
            shape=shape,
            lexicon=lexicon,
            caseless=caseless,
            beam_width=beam_width,
            language_model=language_model,
            language_weight=language_weight,
        )

    def __repr__(self) -> str:
        model = self.model
        characters = len(model.alphabet.characters)
        return f"{type(self).__name__}({model.name}, step {model.step}, {characters} characters)"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._options), (self.model,)

    @overload
    def __call__(self, images: ImageSource) -> Recognition: ...
    @overload
    def __call__(self, images: Iterable[ImageSource]) -> list[Recognition]: ...

    def __call__(self, images: Any) -> Recognition | list[Recognition]:
        """Reads one image, or any number of images.

        Args:
          images: an image, or an iterable of images such as a list or a generator. An image is a
            path (str or Path), an image file's bytes, a Pillow image, or an array uint8 of shape
            (H, W) or (H, W, 1), gray, or (H, W, 3), RGB.

        Returns:
          For one image, what was read in it; for an iterable, a list in the same order.

        Raises:
          DataError: an image cannot be read. The message names its path, or its place in `images`.
            Use `stream` to read the others.
          TypeError: `images`, or one of them, is of another type.

        Example:
          >>> recognizer(Image.open("captcha.png")).text
          '226md'
        """
        if _is_one(images):
            return next(self.stream([images]))
        return list(self.stream(images))

    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        batch_size: int = 32,
        *,
        return_errors: Literal[False] = False,
    ) -> Iterator[Recognition]: ...
    @overload
    def stream(
        self, images: Iterable[ImageSource], batch_size: int = 32, *, return_errors: bool
    ) -> Iterator[Recognition | DataError]: ...

    def stream(
        self, images: Iterable[ImageSource], batch_size: int = 32, *, return_errors: bool = False
    ) -> Iterator[Recognition | DataError]:
        """Reads any number of images batch by batch, in constant memory.

        Args:
          images: an iterable of images of the kinds that `__call__` takes.
          batch_size: the largest number of images that the network reads at once. Up to 4 times as
            many are taken from `images` before the first result, so that images of similar width
            share a batch.
          return_errors: if an image cannot be read, yield the DataError in the place of its result,
            instead of raising it.

        Yields:
          What was read in each image, in the order of `images`.

        Raises:
          DataError: an image cannot be read; the results of the images before it come first.
          TypeError: `images`, or one of them, is of another type.
          ValueError: `batch_size` is less than 1.

        Example:
          >>> paths = sorted(Path("images").glob("*.png"))
          >>> for path, result in zip(paths, recognizer.stream(paths, return_errors=True)):
          ...     print(path, result if isinstance(result, DataError) else result.text)
        """
        if batch_size < 1:
            raise ValueError(f"a batch size of {batch_size} is too small; pass at least 1")
        if _is_one(images) or not isinstance(images, Iterable):
            raise TypeError(
                f"{type(images).__name__} is no iterable of images; pass a list of paths, bytes,"
                " Pillow images or arrays"
            )
        return self._stream(images, batch_size, return_errors)

    def _stream(
        self, images: Iterable[ImageSource], batch_size: int, return_errors: bool
    ) -> Iterator[Recognition | DataError]:
        prepared = itertools.starmap(self._prepare, enumerate(images))
        while chunk := list(itertools.islice(prepared, READ_AHEAD * batch_size)):
            readable = [image for image in chunk if not isinstance(image, DataError)]
            results = iter(self._read(readable, batch_size))
            for image in chunk:
                if not isinstance(image, DataError):
                    yield next(results)
                elif return_errors:
                    yield image
                else:
                    raise image

    def _prepare(self, place: int, image: ImageSource) -> np.ndarray | DataError:
        """An image as the network takes it, uint8 (H, W, C), or why there is none."""
        try:
            if isinstance(image, str | os.PathLike):
                return prepare(read_file(image), self.model.preprocessing, os.fspath(image))
            return prepare(image, self.model.preprocessing, f"image {place}")
        except DataError as error:
            return error

    def _read(self, images: Sequence[np.ndarray], batch_size: int) -> list[Recognition]:
        """Reads prepared images in batches of similar width; the results have their order."""
        order = sorted(range(len(images)), key=lambda place: images[place].shape[1])
        results: dict[int, Recognition] = {}
        while order:
            size = _batch_size(len(order), batch_size)
            places, order = order[:size], order[size:]
            read = self._read_batch([images[place] for place in places], size)
            results.update(zip(places, read, strict=True))
        return [results[place] for place in range(len(images))]

    def _read_batch(self, images: Sequence[np.ndarray], size: int) -> list[Recognition]:
        """Reads prepared images as a batch of `size`."""
        height, _, channels = images[0].shape
        fill = [np.zeros((height, MIN_WIDTH, channels), np.uint8)] * (size - len(images))
        fixed = self.model.preprocessing.width
        widest = max(image.shape[1] for image in images)
        width = bucket_width(widest, (fixed,) if fixed else WIDTHS)
        batch, widths = pad_batch([*images, *fill], width)
        logits, lengths = apply_network(self.model.network, self._variables, batch, widths)
        decoding = decode(self._decoder, logits, lengths)
        texts = self.model.alphabet.decode_batch(decoding.path, lengths)
        probabilities = np.exp(np.asarray(decoding.log_share, float))
        confidences = self.model.calibration.confidence(probabilities).tolist()
        alternatives = Alternative.of_batch(decoding, self.model.alphabet)
        return list(map(Recognition, texts[: len(images)], confidences, alternatives))


# The network and the decoder are separate programs, so that a model is compiled once for all ways
# of decoding. The variables are arguments, so all models of one shape share a program. As
# constants they would also be a part of it, and loading it would take seven times as long.
@partial(jax.jit, static_argnames="network")
def apply_network(
    network: nn.Module, variables: Mapping[str, Any], images: jax.Array, widths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Applies a network to a batch of images.

    Args:
      network: the network; a static argument.
      variables: its params and batch_stats.
      images: (B, H, W, C) uint8.
      widths: (B,) true widths in pixels.

    Returns:
      The logits (B, T, K) and the valid time steps (B,).
    """
    outputs: Any = network.apply(variables, images, widths)
    return outputs


@jax.jit
def decode(decoder: Decoder, logits: jax.Array, lengths: jax.Array) -> Decoding:
    """Decodes the logits of a batch."""
    return decoder(logits, lengths)


def _is_one(images: Any) -> bool:
    """Whether this is one image, and not an iterable of images."""
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return True
    # An array (N, H, W, C) is a sequence of images; so is (N,), such as a column of paths.
    return hasattr(images, "__array__") and np.ndim(images) in (2, 3)


def _batch_size(count: int, most: int) -> int:
    """The largest batch size, at most `most`, that is at least half full with `count` images."""
    sizes = [*(size for size in BATCH_SIZES if size < most), most]
    return max(size for size in sizes if size <= 2 * count)
