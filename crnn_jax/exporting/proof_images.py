"""The images that an exported model is tested on, as people have them."""

import contextlib
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from crnn_jax.data import sources
from crnn_jax.data.image_headers import open_image
from crnn_jax.data.images import Preprocessing, decode, target_width
from crnn_jax.data.sources.split import Split
from crnn_jax.dataset import find_benchmark
from crnn_jax.errors import DataError
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.run_data import config_of, describe, in_words

DRAWN = 100  # captchas that are drawn if there are no images
CALIBRATION = 200  # images that a format may choose ranges of values by
TINY = 7, 5  # pixels
GRAY_MODES = ("1", "L", "I", "I;16", "I;16B")


@dataclass(frozen=True, eq=False)
class Sample:
    """An image.

    Attributes:
      name: identifies it in messages.
      image: upright, and on white where it is transparent; in mode L or RGB, of any size.
      label: its text; None if it is not known.
      kind: "as it is", or what was made of it.
    """

    name: str
    image: Image.Image
    label: str | None
    kind: str = "as it is"

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 1 or 3) uint8."""
        return np.atleast_3d(np.asarray(self.image))


@dataclass(frozen=True, eq=False)
class ProofImages:
    """Samples for a proof.

    Attributes:
      source: where they come from, for people.
      samples: those to compare.
      calibration: images that the model was trained on, or the nearest to them that there are.
      unreadable: how many images could not be read, and were left out.
    """

    source: str
    samples: list[Sample]
    calibration: list[np.ndarray]
    unreadable: int = 0


def find_images(model: TrainedModel, folder: Path | None, most: int) -> ProofImages:
    """Finds images for the proof of a model.

    Args:
      model: the model, which knows the data that it was trained with.
      folder: a folder of images or an LMDB database to take in place of them.
      most: images to take at most, evenly over all.

    Raises:
      DataError: there is no such data, or none of its images can be read.
    """
    config = config_of(model)
    if folder is None and not config.data.source:
        samples = list(_drawn(model, DRAWN, seed=0))
        calibration = [sample.pixels for sample in _drawn(model, CALIBRATION, seed=1)]
        return ProofImages(f"{DRAWN} captchas that were drawn", samples, calibration)
    splits: dict[str, Split] = {}
    if config.data.source:
        splits = sources.load(config.data, config.seed)
    if folder is not None:
        source, split = str(folder), find_benchmark(folder)
    elif "test" in splits:
        source, split = f"test images of {in_words(describe(config.data))}", splits["test"]
    else:
        raise DataError(f"{model.name} has no test images; name other ones with --images DIR")
    chosen = _evenly(split, most)
    errors: list[DataError] = []
    samples = list(_readable(chosen, errors))
    if not samples:
        raise DataError(f"none of {len(chosen)} images of {source} can be read; {errors[0]}")
    trained = _readable(_evenly(splits.get("train", split), CALIBRATION), [])
    calibration = [sample.pixels for sample in trained]
    return ProofImages(source, samples, calibration, len(errors))


def with_variants(samples: Sequence[Sample], preprocessing: Preprocessing) -> list[Sample]:
    """Adds what may also come: gray, color, transparent, tiny and wide images, and a batch."""
    first = samples[0]
    image = first.image

    def made(kind: str, image: Image.Image) -> Sample:
        return replace(first, name=f"{first.name} ({kind})", image=image, label=None, kind=kind)

    color = image.convert("RGB")
    clear = color.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    widest = max(target_width(s.image.size, preprocessing) for s in samples)
    side_by_side = [
        ("wider than the others", widest + 1),
        ("wider than the model takes", preprocessing.max_width + 1),
    ]
    size = image.size
    return [
        *samples,
        made("gray", image.convert("L")),
        made("color", color),
        made("transparent", _as_decoded(clear, "transparent")),
        made("tiny", color.crop(_middle(image.size, TINY))),
        *(made(kind, _repeated(color, width, preprocessing)) for kind, width in side_by_side),
        *(
            replace(s, name=f"{s.name} (batch)", image=s.image.convert("RGB").resize(size))
            for s in (replace(s, label=None, kind="batch of one size") for s in samples[:4])
        ),
    ]


def _middle(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) in the middle of an image."""
    left, top = ((old - new) // 2 for old, new in zip(size, wanted, strict=True))
    return left, top, left + wanted[0], top + wanted[1]


def _repeated(image: Image.Image, width: int, preprocessing: Preprocessing) -> Image.Image:
    """The image side by side, until it is at least so many pixels wide when it is prepared."""
    height = preprocessing.height
    count = -(-width * image.height // (height * image.width)) + 1
    row = Image.new(image.mode, (count * image.width, image.height))
    for place in range(count):
        row.paste(image, (place * image.width, 0))
    return row


def _evenly(split: Split, most: int) -> Split:
    count = min(most, len(split))
    return split.select(np.linspace(0, len(split) - 1, count).round().astype(int).tolist())


def _readable(split: Split, errors: list[DataError]) -> Iterator[Sample]:
    for index, (name, label) in enumerate(zip(split.names, split.labels, strict=True)):
        try:
            data = split.read(index)
            yield Sample(name, _as_decoded(data, name), label or None)
        except DataError as error:
            errors.append(error)


def _as_decoded(data: bytes | Image.Image, name: str) -> Image.Image:
    """An image as a program decodes it: gray files in mode L, all others in RGB."""
    gray = False
    if isinstance(data, bytes):
        with contextlib.suppress(Exception), open_image(data) as opened:  # decoding says what it is
            gray = opened.mode in GRAY_MODES
    return decode(data, Preprocessing(channels=1 if gray else 3), name)


def _drawn(model: TrainedModel, count: int, seed: int) -> Iterator[Sample]:
    # Not at the top: TFDS takes a while to import.
    from crnn_jax.data.synthetic.captcha import render, render_styled

    known = [c for c in string.digits + string.ascii_letters if not model.alphabet.unseen(c)]
    rng = random.Random(seed)
    for number in range(count):
        # Few have a style, as each of these has another size, and some runtimes compile for each.
        draw = render if number % 10 else render_styled
        text = "".join(rng.choices(known or string.digits, k=rng.randint(4, 6)))
        yield Sample(f"{text} (drawn)", _as_decoded(draw(text, 1000 * seed + number), text), text)
