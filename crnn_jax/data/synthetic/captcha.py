"""The generated-captcha data set: drawn by the `captcha` library, stored with TFDS."""

import dataclasses
import functools
import io
import random
import string
import threading
import types
from collections.abc import Callable, Iterable
from typing import ClassVar
from unittest import mock

import captcha.image
import numpy as np
import tensorflow_datasets as tfds

from crnn_jax.data.synthetic import captcha_styles
from crnn_jax.data.synthetic.builder import Drawing, GeneratedBuilder, GeneratedConfig, Sample
from crnn_jax.errors import DataError

HEIGHT = 60
WIDTH_PER_CHARACTER = 40

_secrets_lock = threading.Lock()


def render(text: str, seed: int) -> bytes:
    """The PNG of `text`, the same for the same seed and library versions."""
    rng = random.Random(seed)
    # The captcha library draws all its chance from the `secrets` module, which cannot be seeded.
    # Only the name `secrets` inside captcha.image is replaced, and only while drawing: everyone
    # else keeps the real module. Should the library come to use another of its functions, this
    # fails with an AttributeError instead of silently losing repeatability.
    seeded = types.SimpleNamespace(
        randbelow=rng.randrange, randbits=rng.getrandbits, choice=rng.choice
    )
    drawer = captcha.image.ImageCaptcha(width=WIDTH_PER_CHARACTER * len(text), height=HEIGHT)
    with _secrets_lock, mock.patch.object(captcha.image, "secrets", seeded):
        image = drawer.generate_image(text)
    png = io.BytesIO()
    image.save(png, format="png")
    return png.getvalue()


def render_styled(text: str, seed: int) -> bytes:
    """The PNG of `text` in a style of its own, the same for the same seed and library versions."""
    return captcha_styles.draw(text, np.random.default_rng(seed))


@dataclasses.dataclass(eq=False, kw_only=True)
class CaptchaConfig(GeneratedConfig):
    """What is written in the images, and how many there are.

    All captchas of a variant are one sequence. Those from `first_test` on are tested on, however
    many of the others are trained on: so no image of any `lower/N` is a test image of another.
    """

    characters: str
    render: Callable[[str, int], bytes] = render
    min_length: int = 4
    max_length: int = 8
    num_train: int = 8_000
    num_test: int = 2_000
    first_test: int = 0  # of a known variant behind its training images

    def __post_init__(self) -> None:
        self.first_test = self.first_test or self.num_train
        if self.num_train != self.first_test:
            # Before, its test images could be training images of another.
            self.version = tfds.core.Version("3.0.0")

    def drawings(self, split: str) -> Iterable[Drawing]:
        """The captchas of a split, yet to be drawn."""
        for index, text in enumerate(self.texts()[split]):
            yield functools.partial(_sample, self.render, text, self.render_seed(split, index))

    def texts(self) -> dict[str, list[str]]:
        """The texts of each split, no two alike even when case is ignored.

        Raises:
            DataError: there are not twice as many texts as are asked for.
        """
        letters, lengths = len(set(self.characters.lower())), (self.min_length, self.max_length)
        possible = sum(letters**length for length in range(lengths[0], lengths[1] + 1))
        count = max(self.num_train, self.first_test) + self.num_test
        if count > possible // 2:
            raise DataError(
                f"the captchas {self.name} have {possible:,} different texts; ask for at most"
                f" {possible // 2 - self.num_test:,} images"
            )
        rng = random.Random(self.seed)
        # Keyed by lower case: a model that ignores case must not meet a training text in the test.
        drawn: dict[str, str] = {}
        while len(drawn) < count:
            length = rng.randint(self.min_length, self.max_length)
            text = "".join(rng.choices(self.characters, k=length))
            drawn.setdefault(text.lower(), text)
        texts = list(drawn.values())
        return {
            split: [texts[self.place(split, index)] for index in range(size)]
            for split, size in (("train", self.num_train), ("test", self.num_test))
        }

    def place(self, split: str, index: int) -> int:
        """The place of a split's captcha in the sequence of all."""
        if split == "test":
            return self.first_test + index
        return index if index < self.first_test else self.num_test + index

    def render_seed(self, split: str, index: int) -> int:
        """The seed of one image, so that any one can be drawn again alone."""
        return (self.seed << 32) + self.place(split, index)


CONFIGS: dict[str, CaptchaConfig] = {
    config.name: config
    for config in (
        CaptchaConfig(
            name="lower",
            description="Digits and lower-case letters.",
            characters=string.digits + string.ascii_lowercase,
        ),
        CaptchaConfig(
            name="cased",
            description="Digits, upper-case and lower-case letters.",
            characters=string.digits + string.ascii_uppercase + string.ascii_lowercase,
        ),
        CaptchaConfig(
            name="styles",
            description="Digits, upper-case and lower-case letters, each image in its own style.",
            characters=string.digits + string.ascii_uppercase + string.ascii_lowercase,
            render=render_styled,
            version=tfds.core.Version("2.0.0"),
            min_length=3,
            num_train=60_000,
        ),
        CaptchaConfig(
            name="tiny",
            description="A few short numbers, for tests.",
            characters=string.digits,
            min_length=2,
            max_length=4,
            num_train=256,
            num_test=64,
        ),
    )
}


class GeneratedCaptcha(GeneratedBuilder):
    """Generated captchas and the texts written in them."""

    BUILDER_CONFIGS: ClassVar[list[CaptchaConfig]] = list(CONFIGS.values())

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Captchas, drawn by the library `captcha`; `styles` by this project.",
            homepage="https://github.com/lepture/captcha",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "text": tfds.features.Text(),
                }
            ),
            # The texts are random already; keeping their order makes names and indices agree.
            disable_shuffling=True,
        )


def _sample(render: Callable[[str, int], bytes], text: str, seed: int) -> Sample:
    return text, render(text, seed)
