"""Reading images with a trained model."""

import contextlib
import copy
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from crnn_jax.data.buckets import bucket_width
from crnn_jax.data.images import MIN_WIDTH, pad_batch
from crnn_jax.decoding import Decoder, Decoding, with_step_probabilities
from crnn_jax.decoding.options import DecodingOptions, make_decoder, make_source_decoder
from crnn_jax.errors import DataError
from crnn_jax.recognition.alternatives import find_alternatives
from crnn_jax.recognition.positions import find_characters, time_step_places
from crnn_jax.recognition.preparing import (
    ImageSource,
    Prepared,
    decode_image,
    prepare_groups,
    prepare_image,
)
from crnn_jax.recognition.results import Explanation, Recognition
from crnn_jax.recognition.trained_model import BEST, TrainedModel

# Each batch shape costs a compilation, which takes as long as reading 500 images, and in later
# processes a trace, which takes as long as 60. So there are few shapes, in geometric steps.
WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
BATCH_SIZES = (1, 8, 32, 128, 512)
SAMPLE, SAMPLE_BATCH = 128, 32  # images of a source to learn from
READ_AHEAD = 4  # batches, whose images are sorted by width; as many are prepared meanwhile


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
      decoder: what makes texts of the network's logits.
    """

    def __init__(
        self,
        model: TrainedModel,
        decoder: Decoder | None = None,
        **options: Unpack[DecodingOptions],
    ) -> None:
        """Takes the options of decoding that `load` takes, or a decoder of its own."""
        self.model = model
        self.decoder = decoder or make_decoder(model.alphabet, model.charsets, **options)
        self._options = options
        self._variables = jax.device_put(model.variables)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        step: int = BEST,
        **options: Unpack[DecodingOptions],
    ) -> Self:
        """Loads a trained model.

        What is known of the texts helps to read them. No other texts are then read.

        Compiled programs are kept in the user's cache folder, unless JAX is configured otherwise.

        Args:
          model: a workdir, or the name of a pretrained model; `captcha` by default.
          step: the checkpoint to load; by default the one with the best validation metrics.
          options: what is known of the texts, and how to read them; see
            `crnn_jax.decoding.options.DecodingOptions`.

        Raises:
          CheckpointError: there is no such model or step, or it cannot be read.
          ConfigError: the model cannot read one of the characters, or another option cannot be
            used.

        Example:
          >>> Recognizer.load("runs/captcha")
          Recognizer(runs/captcha, step 12240, 36 characters)
          >>> Recognizer.load(alphabet="digits", length=(4, 6))
          Recognizer(captcha, step 9804, 62 characters)
        """
        return cls(TrainedModel.load(model, step), **options)

    def __repr__(self) -> str:
        model = self.model
        characters = len(model.alphabet.characters)
        return f"{type(self).__name__}({model.name}, step {model.step}, {characters} characters)"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._options), (self.model, self.decoder)

    def adapt(self, images: Iterable[ImageSource]) -> Self:
        """Returns a recognizer for images of one source, such as one site's captchas.

        Their texts are of one set of characters, of which some may not occur, and of few lengths.
        Both are learned from what is read in a sample. Labels are not needed. A text unlike the
        others is still read if its image leaves no doubt.

        Args:
          images: the sample; the first 128 of them are used. 30 may be enough.

        Raises:
          DataError: none of the images can be read.
          ConfigError: the recognizer has options that do not go together with a source.

        Example:
          >>> paths = sorted(Path("captchas").glob("*.png"))
          >>> recognizer = Recognizer.load().adapt(paths)
        """
        sample = itertools.islice(images, SAMPLE)
        with contextlib.closing(prepare_groups(sample, self.model.preprocessing, SAMPLE)) as groups:
            found = next(groups, [])
        readable = [image for image in found if not isinstance(image, DataError)]
        if not readable:
            raise DataError("no image can be read, so there is none to adapt to; name others")
        readable.sort(key=lambda image: image.pixels.shape[1])
        outputs: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(readable), SAMPLE_BATCH):
            batch = readable[start : start + SAMPLE_BATCH]
            logits, lengths = self._apply(batch, SAMPLE_BATCH)
            outputs.append((np.asarray(logits)[: len(batch)], np.asarray(lengths)[: len(batch)]))
        steps = max(logits.shape[1] for logits, _ in outputs)
        padded = [
            np.pad(logits, ((0, 0), (0, steps - logits.shape[1]), (0, 0))) for logits, _ in outputs
        ]
        adapted = copy.copy(self)
        adapted.decoder = make_source_decoder(
            self.model.alphabet,
            self.model.charsets,
            jnp.asarray(np.concatenate(padded)),
            jnp.asarray(np.concatenate([lengths for _, lengths in outputs])),
            **self._options,
        )
        return adapted

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
            image = prepare_image(images, self.model.preprocessing)
            if isinstance(image, DataError):
                raise image
            return self._read([image], 1)[0]
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

        Close the iterator, or drop it, to end the threads before its end.

        Args:
          images: an iterable of images of the kinds that `__call__` takes.
          batch_size: the largest number of images that the network reads at once. Up to 8 times as
            many are taken from `images` before the first result: images of similar width share a
            batch, and files are decoded in threads while the network reads those before them.
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

    def explain(self, image: ImageSource) -> Explanation:
        """Reads one image, and returns also what the network said at each time step.

        Raises:
          DataError, TypeError: as `__call__`.

        Example:
          >>> from crnn_jax.recognition.drawing import draw_explanation
          >>> draw_explanation(recognizer.explain("captcha.png")).save("explained.png")
        """
        decoded = decode_image(image, self.model.preprocessing)
        prepared = Prepared.of(decoded, self.model.preprocessing)
        logits, lengths = self._apply([prepared], 1)
        decoding = decode(self.decoder, logits, lengths)
        (recognition,) = self._finish([prepared], lengths, decoding)
        probabilities = np.asarray(jax.nn.softmax(logits))[0, : int(lengths[0])]
        places = time_step_places(len(probabilities), self.model.architecture)
        return Explanation(
            decoded,
            recognition,
            probabilities,
            places * (prepared.width / prepared.pixels.shape[1]),
            self.model.alphabet.characters,
        )

    def _stream(
        self, images: Iterable[ImageSource], batch_size: int, return_errors: bool
    ) -> Iterator[Recognition | DataError]:
        groups = prepare_groups(images, self.model.preprocessing, READ_AHEAD * batch_size)
        with contextlib.closing(groups):
            for group in groups:
                readable = [image for image in group if not isinstance(image, DataError)]
                results = iter(self._read(readable, batch_size))
                for image in group:
                    if not isinstance(image, DataError):
                        yield next(results)
                    elif return_errors:
                        yield image
                    else:
                        raise image

    def _read(self, images: Sequence[Prepared], batch_size: int) -> list[Recognition]:
        """Reads prepared images in batches of similar width; the results have their order."""
        order = sorted(range(len(images)), key=lambda place: images[place].pixels.shape[1])
        batches: list[tuple[list[int], jax.Array, Decoding]] = []
        while order:
            size = _batch_size(len(order), batch_size)
            places, order = order[:size], order[size:]
            logits, lengths = self._apply([images[place] for place in places], size)
            batches.append((places, lengths, decode(self.decoder, logits, lengths)))
        # The batches are computed one after another, while the next one is padded and the results
        # of the last one become texts.
        results: dict[int, Recognition] = {}
        for places, lengths, decoding in batches:
            read = self._finish([images[place] for place in places], lengths, decoding)
            results.update(zip(places, read, strict=True))
        return [results[place] for place in range(len(images))]

    def _apply(self, images: Sequence[Prepared], size: int) -> tuple[jax.Array, jax.Array]:
        """Begins to apply the network to images as a batch of `size`, and does not wait."""
        height, _, channels = images[0].pixels.shape
        fill = [np.zeros((height, MIN_WIDTH, channels), np.uint8)] * (size - len(images))
        fixed = self.model.preprocessing.width
        widest = max(image.pixels.shape[1] for image in images)
        width = bucket_width(widest, (fixed,) if fixed else WIDTHS)
        batch, widths = pad_batch([*(image.pixels for image in images), *fill], width)
        return apply_network(self.model.network, self._variables, batch, widths)

    def _finish(
        self, images: Sequence[Prepared], lengths: jax.Array, decoding: Decoding
    ) -> Iterator[Recognition]:
        """What was read in images, which are the first of a batch, once it is computed."""
        paths, steps = np.asarray(decoding.path), np.asarray(decoding.step_probabilities)
        probabilities = np.exp(np.asarray(decoding.log_share, float))
        confidences = self.model.calibration.confidence(probabilities).tolist()
        alternatives = find_alternatives(decoding, self.model.alphabet)
        for row, (image, length) in enumerate(zip(images, np.asarray(lengths), strict=False)):
            characters = find_characters(
                paths[row, :length],
                steps[row, :length],
                self.model.alphabet,
                image.pixels,
                image.width,
                self.model.architecture,
            )
            text = "".join(character.text for character in characters)
            yield Recognition(text, confidences[row], characters, alternatives[row])


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
    """Decodes the logits of a batch, with the probabilities of the time steps."""
    return with_step_probabilities(decoder(logits, lengths), logits)


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
