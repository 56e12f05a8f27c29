"""The data set of rendered text: words and lines in many fonts that look like photographs."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from crnn_jax.data.synthetic.builder import Drawing, GeneratedBuilder, GeneratedConfig, Sample
from crnn_jax.data.synthetic.drawing import choose_face, photograph
from crnn_jax.data.synthetic.fonts import chinese_families, latin_families
from crnn_jax.data.synthetic.texts import chinese_text, english_words, word_text

KINDS = {
    "words": (word_text, latin_families, 1.8, 14),
    "chinese": (chinese_text, chinese_families, 0.8, 24),
}
"""Kind -> the texts, the fonts, and the arguments `reach` and `least_height` of `photograph`.

Chinese has too many strokes to be legible in 14 pixels, and its lines are long.
"""


def sample(kind: str, seed: tuple[int, ...]) -> Sample:
    """Draws a text and its JPEG; the same seed and library versions give the same sample."""
    write, families, reach, least_height = KINDS[kind]
    rng = np.random.default_rng(seed)
    text = write(rng)
    face = choose_face(text, families(), rng)
    return text, photograph(text, face, reach, least_height, rng)


@dataclasses.dataclass(eq=False, kw_only=True)
class RenderedTextConfig(GeneratedConfig):
    """A variant of rendered text; `kind` is a key of `KINDS`."""

    kind: str
    num_train: int = 100_000
    num_test: int = 2_000

    def drawings(self, split: str) -> Iterable[Drawing]:
        """Returns functions that draw a split; each image depends only on the seed and its index.

        Raises:
            ConfigError: fonts or word lists are not installed.
        """
        english_words()
        KINDS[self.kind][1]()
        place, count = {"train": (0, self.num_train), "test": (1, self.num_test)}[split]
        return (
            functools.partial(sample, self.kind, (self.seed, place, index))
            for index in range(count)
        )


class RenderedText(GeneratedBuilder):
    """Images of rendered text and their texts."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS: ClassVar[list[RenderedTextConfig]] = [
        RenderedTextConfig(
            name="words",
            description="English words, numbers and short lines in printable ASCII.",
            kind="words",
        ),
        RenderedTextConfig(
            name="chinese",
            description="Lines of Chinese with some English and numbers.",
            kind="chinese",
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Text in free fonts that looks like a crop of a photograph.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "text": tfds.features.Text(),
                }
            ),
            # The texts are random already; without shuffling, names and indices agree.
            disable_shuffling=True,
        )
