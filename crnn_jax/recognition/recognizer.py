"""Reading images with a trained model."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

import numpy as np
from PIL import Image

from crnn_jax.compiler import configure_jax
from crnn_jax.errors import DataError
from crnn_jax.recognition.alternatives import find_alternatives
from crnn_jax.recognition.backends import AUTO, ONNX, Backend, BackendName, Reading, choose_backend
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
from crnn_jax.text.options import DecodingOptions, is_default

if TYPE_CHECKING:
    from crnn_jax.decoding import Decoder

SAMPLE, SAMPLE_BATCH = 128, 32  # images of a source to learn from
READ_AHEAD = 4  # batches, whose images are sorted by width; as many are prepared meanwhile


class Recognizer:
    """Reads images of one line of text.

    >>> recognizer = Recognizer.load()  # the pretrained captcha model
    >>> recognizer("captcha.png")
    Recognition('226md', confidence=0.764)
    >>> [result.text for result in recognizer(["a.png", "b.png"])]
    ['226md', '2356g']

    Images may have any size. They are preprocessed as in training: turned upright (EXIF), composed
    onto white where they are transparent, and resized to the height of the model. Several threads
    can use one recognizer, and it can be pickled.

    Attributes:
      model: the trained model that it reads with.
      backend: what runs the network, "jax" or "onnx".
    """

    def __init__(
        self,
        model: TrainedModel,
        decoder: "Decoder | None" = None,
        backend: BackendName = AUTO,
        **options: Unpack[DecodingOptions],
    ) -> None:
        """Takes the options of decoding that `load` takes, or a decoder of its own."""
        plain = decoder is None and is_default(options)
        self.model = model
        self._asked = backend  # on another machine a copy chooses again
        self.backend: BackendName = choose_backend(backend, plain)
        self._options = options
        self._decoder = decoder  # None: there is none yet
        if self.backend == ONNX:
            from crnn_jax.recognition.onnx_backend import OnnxBackend

            self._reader: Backend = OnnxBackend(model, None if plain else self.decoder)
        else:
            from crnn_jax.recognition.jax_backend import JaxBackend

            self._reader = JaxBackend(model, self.decoder)

    @property
    def decoder(self) -> "Decoder":
        """What makes texts of the network's logits. Asking for it imports JAX."""
        if self._decoder is None:
            configure_jax()
            from crnn_jax.decoding.options import make_decoder

            own = self.model.alphabet
            self._decoder = make_decoder(own, self.model.charsets, **self._options)
        return self._decoder

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        step: int = BEST,
        backend: BackendName = AUTO,
        **options: Unpack[DecodingOptions],
    ) -> Self:
        """Loads a trained model.

        What is known of the texts helps to read them. No other texts are then read.

        Compiled programs and ONNX graphs are kept in the user's cache folder, unless JAX is
        configured otherwise.

        Args:
          model: a workdir, or the name of a pretrained model; `captcha` by default.
          step: the checkpoint to load; by default the one with the best validation metrics.
          backend: what runs the network: "jax", or "onnx", which starts sooner and is faster on a
            CPU; "auto" chooses, see `recognition.backends.choose_backend`. Decoding with options
            runs in JAX with either.
          options: what is known of the texts, and how to read them; see
            `crnn_jax.text.options.DecodingOptions`.

        Raises:
          CheckpointError: there is no such model or step, or it cannot be read.
          ConfigError: the model cannot read one of the characters, or another option cannot be
            used; or the backend is not installed.

        Example:
          >>> Recognizer.load("runs/captcha")
          Recognizer(runs/captcha, step 12240, 36 characters)
          >>> Recognizer.load(alphabet="digits", length=(4, 6))
          Recognizer(captcha, step 9804, 62 characters)
        """
        return cls(TrainedModel.load(model, step), None, backend, **options)

    def __repr__(self) -> str:
        model = self.model
        characters = len(model.alphabet.characters)
        return f"{type(self).__name__}({model.name}, step {model.step}, {characters} characters)"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._options), (self.model, self._decoder, self._asked)

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
        images_read = [image.pixels for image in found if not isinstance(image, DataError)]
        if not images_read:
            raise DataError("no image can be read, so there is none to adapt to; name others")
        images_read.sort(key=lambda pixels: pixels.shape[1])
        outputs = list(self._reader.logits(images_read, SAMPLE_BATCH))
        steps = max(logits.shape[1] for logits, _ in outputs)
        padded = [
            np.pad(logits, ((0, 0), (0, steps - logits.shape[1]), (0, 0))) for logits, _ in outputs
        ]
        configure_jax()
        from crnn_jax.decoding.options import make_source_decoder

        decoder = make_source_decoder(
            self.model.alphabet,
            self.model.charsets,
            np.concatenate(padded),
            np.concatenate([lengths for _, lengths in outputs]),
            **self._options,
        )
        return type(self)(self.model, decoder, self.backend, **self._options)

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
        (recognition,) = self._read([prepared], 1)
        ((logits, lengths),) = self._reader.logits([prepared.pixels], 1)
        scores = logits[0, : lengths[0]]
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        places = time_step_places(len(odds), self.model.architecture)
        return Explanation(
            decoded,
            recognition,
            odds / odds.sum(-1, keepdims=True),
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
        results: dict[int, Recognition] = {}
        places = iter(order)
        for reading in self._reader.read([images[place].pixels for place in order], batch_size):
            of_batch = list(itertools.islice(places, reading.size))
            read = self._finish([images[place] for place in of_batch], reading)
            results.update(zip(of_batch, read, strict=True))
        return [results[place] for place in range(len(images))]

    def _finish(self, images: Sequence[Prepared], reading: Reading) -> Iterator[Recognition]:
        """What was read in the images of a batch."""
        confidences = reading.confidences.tolist()
        alternatives = find_alternatives(reading, self.model.alphabet)
        for row, (image, length) in enumerate(zip(images, reading.lengths, strict=False)):
            characters = find_characters(
                reading.path[row, :length],
                reading.step_probabilities[row, :length],
                self.model.alphabet,
                image.pixels,
                image.width,
                self.model.architecture,
            )
            text = "".join(character.text for character in characters)
            yield Recognition(text, confidences[row], characters, alternatives[row])


def _is_one(images: Any) -> bool:
    """Whether this is one image, and not an iterable of images."""
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return True
    # An array (N, H, W, C) is a sequence of images; so is (N,), such as a column of paths.
    return hasattr(images, "__array__") and np.ndim(images) in (2, 3)
