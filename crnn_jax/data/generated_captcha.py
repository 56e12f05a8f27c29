"""The generated-captcha data set: drawn by the `captcha` library, stored with TFDS."""

import dataclasses
import io
import multiprocessing
import os
import random
import string
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar
from unittest import mock

import captcha.image
import tensorflow_datasets as tfds
from etils import epath

from crnn_jax.errors import DataError

HEIGHT = 60
WIDTH_PER_CHARACTER = 40

# Each worker imports this module, so beyond a few their start-up costs more than they save.
_MAX_WORKERS = 8
_CHUNK = 32

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
    picture = captcha.image.ImageCaptcha(width=WIDTH_PER_CHARACTER * len(text), height=HEIGHT)
    with _secrets_lock, mock.patch.object(captcha.image, "secrets", seeded):
        image = picture.generate_image(text)
    png = io.BytesIO()
    image.save(png, format="png")
    return png.getvalue()


@dataclasses.dataclass(eq=False, kw_only=True)
class CaptchaConfig(tfds.core.BuilderConfig):
    """What is written in the pictures, and how many there are."""

    characters: str
    min_length: int = 4
    max_length: int = 8
    num_train: int = 8_000
    num_test: int = 2_000
    seed: int = 0

    def texts(self) -> dict[str, list[str]]:
        """The texts of each split, no two alike even when case is ignored."""
        rng = random.Random(self.seed)
        # Keyed by lower case: a model that ignores case must not meet a training text in the test.
        drawn: dict[str, str] = {}
        while len(drawn) < self.num_train + self.num_test:
            length = rng.randint(self.min_length, self.max_length)
            text = "".join(rng.choices(self.characters, k=length))
            drawn.setdefault(text.lower(), text)
        texts = list(drawn.values())
        return {"train": texts[: self.num_train], "test": texts[self.num_train :]}

    def render_seed(self, split: str, index: int) -> int:
        """The seed of one picture, so that any one can be drawn again alone."""
        offset = {"train": 0, "test": self.num_train}[split]
        return (self.seed << 32) + offset + index


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


class GeneratedCaptcha(tfds.core.GeneratorBasedBuilder):
    """Generated captchas and the texts written in them."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[CaptchaConfig]] = list(CONFIGS.values())
    # Nothing is downloaded, so there are no checksums. TFDS would look for a file of them with the
    # package importlib_resources, which it does not declare as a dependency (as of 4.9.10).
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Captchas drawn by the Python library `captcha` from seeded chance.",
            homepage="https://github.com/lepture/captcha",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(HEIGHT, None, 3), encoding_format="png"),
                    "text": tfds.features.Text(),
                }
            ),
            # The texts are random already; keeping their order makes names and indices agree.
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        assert isinstance(config, CaptchaConfig)
        texts = config.texts()[split]
        seeds = [config.render_seed(split, index) for index in range(len(texts))]
        # Spawned, as forking a process in which JAX runs threads can deadlock.
        with ProcessPoolExecutor(
            max_workers=min(os.cpu_count() or 1, _MAX_WORKERS),
            mp_context=multiprocessing.get_context("spawn"),
        ) as pool:
            images = pool.map(render, texts, seeds, chunksize=_CHUNK)
            for index, (text, image) in enumerate(zip(texts, images, strict=True)):
                # A file object is stored as it is; an array would need TensorFlow to encode it.
                yield index, {"image": io.BytesIO(image), "text": text}


def prepare(variant: str, data_dir: epath.PathLike | None = None) -> tfds.core.DatasetBuilder:
    """The builder of a variant, its pictures drawn first where `data_dir` does not hold them yet.

    Raises:
        DataError: there is no such variant, or drawing failed.
    """
    if variant not in CONFIGS:
        raise DataError(f"unknown captcha variant {variant!r}: choose from {', '.join(CONFIGS)}")
    builder = GeneratedCaptcha(config=variant, data_dir=data_dir, file_format="array_record")
    try:
        builder.download_and_prepare()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker drawing captchas died: if your script calls this at top level, "
            'move the call under `if __name__ == "__main__":`'
        ) from error
    return builder
