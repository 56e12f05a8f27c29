"""Grids of images with texts below them, in a font of this machine that has the characters."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Fonts of Linux, macOS and Windows, by the names with which Pillow finds them.
FONTS = (
    *("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf"),
    *("Arial Unicode.ttf", "msyh.ttc", "malgun.ttf", "segoeui.ttf"),
)
SIZE = 20
HEIGHT = 64  # of an image in a grid, in pixels
_NO_CHARACTER = "\U0010ffff"  # never assigned, so that every font draws its "missing" glyph

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def image_grid(
    images: Sequence[np.ndarray],
    texts: Sequence[str],
    references: Sequence[str],
    columns: int = 0,
) -> Image.Image:
    """Draws images in columns, each with a text below it.

    A text that differs from its reference is red, and the reference is below it.

    Args:
      images: uint8 images (H, W, C), at least one; C is 1 or 3.
      texts: the text for each image, such as the prediction.
      references: the correct text for each image.
      columns: 0 for as many as fit into 1200 pixels.
    """
    font = choose_font("".join({*"".join(texts), *"".join(references)}))
    line, margin = 28, 14
    thumbnails = [
        Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3))) for image in images
    ]
    thumbnails = [
        thumbnail.resize((max(1, thumbnail.width * HEIGHT // thumbnail.height), HEIGHT))
        for thumbnail in thumbnails
    ]
    read = [drawable(text, font) or "(nothing)" for text in texts]
    right = [drawable(text, font) for text in references]
    width = math.ceil(
        max(*(p.width for p in thumbnails), *(font.getlength(text) for text in read + right))
    )
    width, height = width + 2 * margin, HEIGHT + 2 * line + 2 * margin
    columns = columns or min(len(thumbnails), max(1, 1200 // width))
    grid = Image.new(
        "RGB", (columns * width, math.ceil(len(thumbnails) / columns) * height), (236, 236, 236)
    )
    draw = ImageDraw.Draw(grid)
    for i, thumbnail in enumerate(thumbnails):
        x, y = i % columns * width + margin, i // columns * height + margin
        grid.paste(thumbnail, (x, y))
        y += HEIGHT + 4
        if texts[i] == references[i]:
            draw.text((x, y), read[i], (30, 30, 30), font)
        else:
            draw.text((x, y), read[i], (200, 0, 0), font)
            draw.text((x, y + line - 4), right[i], (110, 110, 110), font)
    return grid


def choose_font(characters: str) -> Font:
    """The font with the fewest missing characters, of this machine's fonts and Pillow's own."""
    return min(_fonts(), key=lambda font: len(_missing(characters, font)))


def drawable(text: str, font: Font) -> str:
    """The text, with code points in brackets for characters that the font does not have."""
    missing = _missing(text, font)
    return "".join(f"[{ord(c):04X}]" if c in missing else c for c in text)


@functools.cache
def _fonts() -> tuple[Font, ...]:
    found: list[Font] = [ImageFont.load_default(SIZE)]
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, SIZE))
        except OSError:
            continue
    return tuple(found)


def _missing(characters: str, font: Font) -> set[str]:
    # Pillow cannot tell what a font has, but all missing characters look the same.
    def drawn(character: str) -> bytes:
        image = Image.new("L", (2 * SIZE, 2 * SIZE))
        ImageDraw.Draw(image).text((0, 0), character, 255, font)
        return image.tobytes()

    placeholder = drawn(_NO_CHARACTER)
    return {c for c in set(characters) - {" "} if not c.isprintable() or drawn(c) == placeholder}
