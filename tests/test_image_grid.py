"""Grids of images: errors are red, and characters that the font lacks are not drawn."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageFont

from crnn_jax.training import image_grid as grid_module
from crnn_jax.training.image_grid import choose_font, drawable, image_grid

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
TEXTS = "abcXYZ019 .-~éßŁŠПриветΩμфयกא中文京한あア\u200b\n\t\0\U0001f600\U000e0041"


def reddish(grid: Image.Image) -> bool:
    pixels = np.asarray(grid).astype(int)
    return bool(((pixels[..., 0] > 180) & (pixels[..., 1] < 60)).any())


def test_errors_are_red_on_the_grid() -> None:
    images = [np.full((32, width, c), 90, np.uint8) for width, c in ((100, 1), (60, 3), (80, 1))]
    right = image_grid(images, ["a1", "b", "中"], ["a1", "b", "中"])
    wrong = image_grid(images, ["a1", "b", ""], ["a1", "b", "中"])
    assert not reddish(right)
    assert reddish(wrong)
    assert right.mode == "RGB"
    width = right.width // 3
    np.testing.assert_array_equal(
        np.asarray(right)[:, : 2 * width], np.asarray(wrong)[:, : 2 * width]
    )


def test_the_grid_grows_downward_and_fits_any_text() -> None:
    images = [np.zeros((32, 100, 1), np.uint8)] * 60
    grid = image_grid(images, ["x"] * 60, ["y"] * 60)
    assert grid.width <= 1200 < grid.height
    assert image_grid(images[:1], ["w" * 200], ["y"]).width > 1200


def test_characters_that_a_font_lacks_are_code_points() -> None:
    """Compared with the font's table of characters, which fontTools reads."""
    has = set(TTFont(DEJAVU).getBestCmap())
    font = ImageFont.truetype(str(DEJAVU), 20)
    for character in TEXTS:
        readable = ord(character) in has and character.isprintable()
        expected = character if readable else f"[{ord(character):04X}]"
        assert drawable(character, font) == expected
    assert drawable("a京é", font) == "a[4EAC]é"


def test_the_font_that_has_the_letters_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, more = ImageFont.load_default(20), ImageFont.truetype(str(DEJAVU), 20)
    monkeypatch.setattr(grid_module, "_fonts", lambda: (plain, more))
    assert choose_font("abc") is plain
    assert choose_font("abcПривет京") is more
    monkeypatch.setattr(grid_module, "_fonts", lambda: (plain,))
    assert drawable("Пab", choose_font("Пab")) == "[041F]ab"
