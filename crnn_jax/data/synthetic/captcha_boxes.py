"""Where the characters of a generated captcha are: to measure how well a model finds them."""

import random
from functools import partial
from typing import Any, TypeAlias

from captcha.image import ImageCaptcha
from PIL import Image, ImageChops

from crnn_jax.data.synthetic.captcha import draw_with

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are the first ones outside."""


def render_with_boxes(text: str, seed: int) -> tuple[bytes, list[Box]]:
    """Draws the captcha that `captcha.render` draws, and finds the box of each character.

    A box is that of the character's ink, before the library blurs the image slightly.
    """
    rng = random.Random(seed)
    boxes: list[Box] = []
    return draw_with(partial(_Observed, rng, boxes), text, rng), boxes


class _Observed(ImageCaptcha):
    """Draws each character alone on the background before it draws them all.

    Args:
      rng: gives all random numbers.
      boxes: takes the boxes of the characters.
      size: the size of the image, as `ImageCaptcha` takes it.
    """

    def __init__(self, rng: random.Random, boxes: list[Box], **size: Any) -> None:
        super().__init__(**size)
        self._rng = rng
        self._boxes = boxes
        self._hidden: list[bool] = []  # of the characters that are yet to be drawn

    def create_captcha_image(self, chars: str, color: Any, background: Any) -> Image.Image:
        """Draws the characters; see the class."""
        state = self._rng.getstate()
        for place in range(len(chars)):
            self._rng.setstate(state)
            self._hidden = [other != place for other in range(len(chars))]
            alone = super().create_captcha_image(chars, color, background)
            empty = Image.new("RGB", alone.size, background)
            box = ImageChops.difference(alone, empty).getbbox()
            assert box is not None, f"{chars[place]!r} has no ink"
            self._boxes.append(box)
        self._rng.setstate(state)
        return super().create_captcha_image(chars, color, background)

    def _draw_character(self, c: str, draw: Any, color: Any) -> Image.Image:
        image = super()._draw_character(c, draw, color)
        # The library draws spaces between the characters, which have no ink.
        if c != " " and self._hidden and self._hidden.pop(0):
            return Image.new(image.mode, image.size)
        return image
