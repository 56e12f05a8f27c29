"""The data set of generated captchas, drawn by the `captcha` library and stored with TFDS."""

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
    """Draws a captcha as a PNG; the same seed and library versions give the same bytes."""
    return draw_with(captcha.image.ImageCaptcha, text, random.Random(seed))


def draw_with(
    drawer: Callable[..., captcha.image.ImageCaptcha], text: str, rng: random.Random
) -> bytes:
    """Draws a captcha as a PNG with a drawer of the captcha library.

    The captcha library takes all random numbers from the module `secrets`, which has no seed. The
    name `secrets` is replaced in captcha.image alone, and only while drawing, so all other code
    keeps the real module. If the library starts to use other functions of it, there will be an
    AttributeError instead of images that cannot be drawn again.
    """
    seeded = types.SimpleNamespace(
        randbelow=rng.randrange, randbits=rng.getrandbits, choice=rng.choice
    )
    image_captcha = drawer(width=WIDTH_PER_CHARACTER * len(text), height=HEIGHT)
    with _secrets_lock, mock.patch.object(captcha.image, "secrets", seeded):
        image = image_captcha.generate_image(text)
    png = io.BytesIO()
    image.save(png, format="png")
    return png.getvalue()


def render_styled(text: str, seed: int) -> bytes:
    """Draws a captcha in a random style as a PNG; as repeatable as `render`."""
    return captcha_styles.draw(text, np.random.default_rng(seed))


@dataclasses.dataclass(eq=False, kw_only=True)
class CaptchaConfig(GeneratedConfig):
    """A variant: the texts of its captchas, how they are drawn, and how many there are.

    All captchas of a variant form one sequence. `num_test` of them, from `first_test` on, are the
    test images, for any number of training images. So no training image of any `lower/N` is a test
    image of another.
    """

    characters: str
    render: Callable[[str, int], bytes] = render
    min_length: int = 4
    max_length: int = 8
    num_train: int = 8_000
    num_test: int = 2_000
    first_test: int = 0  # by default the first one after the training images

    def __post_init__(self) -> None:
        self.first_test = self.first_test or self.num_train
        if self.num_train != self.first_test:
            # In earlier versions its test images could be training images of another variant.
            self.version = tfds.core.Version("3.0.0")

    def drawings(self, split: str) -> Iterable[Drawing]:
        """Returns functions that draw the captchas of a split."""
        for index, text in enumerate(self.texts()[split]):
            yield functools.partial(_sample, self.render, text, self.render_seed(split, index))

    def texts(self) -> dict[str, list[str]]:
        """Returns the texts of each split. They all differ, even if case is ignored.

        Raises:
            DataError: the number of possible texts is less than twice the number of images.
        """
        letters, lengths = len(set(self.characters.lower())), (self.min_length, self.max_length)
        possible = sum(letters**length for length in range(lengths[0], lengths[1] + 1))
        count = max(self.num_train, self.first_test) + self.num_test
        if count > possible // 2:
            raise DataError(
                f"the captchas {self.name} have only {possible:,} possible texts; ask for at most"
                f" {possible // 2 - self.num_test:,} images"
            )
        rng = random.Random(self.seed)
        # By lower case, so that the splits share no text for a model that ignores case either.
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
        """Returns the index in the sequence of all captchas."""
        if split == "test":
            return self.first_test + index
        return index if index < self.first_test else self.num_test + index

    def render_seed(self, split: str, index: int) -> int:
        """Returns the seed of an image; each has its own, so any one can be drawn again alone."""
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
            description="Digits, upper-case and lower-case letters, each in a random style.",
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
    """Generated captchas and their texts."""

    BUILDER_CONFIGS: ClassVar[list[CaptchaConfig]] = list(CONFIGS.values())

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Captchas drawn by the library `captcha`; `styles` by crnn_jax.",
            homepage="https://github.com/lepture/captcha",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "text": tfds.features.Text(),
                }
            ),
            # The texts are random already; without shuffling, names and indices agree.
            disable_shuffling=True,
        )


def _sample(render: Callable[[str, int], bytes], text: str, seed: int) -> Sample:
    return text, render(text, seed)
