"""Drawing captchas in random styles.

The captchas of one service share a style: font, size, rotation, colors, spacing, background and
dirt. Here each image has a random one, so that a network trained on them can read the captchas of
services that it has never seen.
"""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from crnn_jax.data.augment import Augmentation, augmented
from crnn_jax.data.synthetic.drawing import LUMINANCE, choose_face, clouds, to_rgb
from crnn_jax.data.synthetic.fonts import Face, latin_families


@dataclasses.dataclass(frozen=True)
class Pen:
    """How the characters of an image are drawn.

    Attributes:
        bold: pixels that are added around each character.
        hollow: whether only the outline is drawn.
    """

    bold: int
    hollow: bool


EM = (20, 44)  # pixels, the range of font sizes
TURNS = (0.0, 0.0, 8.0, 20.0, 40.0)  # degrees, the largest rotation of the characters
CONTRASTS = (12.0, 40.0, 40.0)  # smallest difference in luminance of ink and background


def draw(text: str, rng: np.random.Generator) -> bytes:
    """Draws a captcha as a PNG, 22 to 158 pixels high."""
    size = int(rng.integers(*EM))
    glyphs = _glyphs(text, size, rng)
    height = int(
        max(size * rng.choice((1.0, 1.2, 1.5, 2.0, 2.6, 3.2)) * rng.uniform(0.95, 1.15), 22)
    )
    gaps = size * _gaps(len(text), rng)
    margins = rng.uniform(0.05, 0.3 if rng.random() < 0.5 else 1.5, 2) * size
    width = int(sum(glyph.width for glyph in glyphs) + gaps.sum() + margins.sum())
    ground = _ground_color(rng)
    image = clouds((width, height), ground, 60, rng)
    if rng.random() < 0.25:
        _boxes(image, ground, rng)
    inks = _inks(len(text), ground, rng)
    behind = rng.random() < 0.3
    if behind:
        _lines(image, inks, rng)
    level = rng.uniform(0.3, 0.7)  # vertical position of the whole text
    sway = rng.uniform(0, 1) if rng.random() < 0.5 else 0.0  # of each character around it
    x = margins[0]
    for glyph, gap, ink in zip(glyphs, gaps, inks, strict=True):
        free = height - size
        y = free * (level + sway * rng.uniform(-0.5, 0.5)) - (glyph.height - size) / 2
        image.paste(to_rgb(ink), (round(x + gap), round(y)), glyph)
        x += glyph.width + gap
    if not behind and rng.random() < 0.75:
        _lines(image, inks, rng)
    return _png(_worn(image, rng))


def _gaps(count: int, rng: np.random.Generator) -> np.ndarray:
    """The space before each character in ems, (count,); negative if they overlap."""
    kind = rng.random()
    if kind < 0.5:
        gaps = np.full(count, rng.uniform(-0.12, 0.1))
    elif kind < 0.75:
        gaps = np.full(count, rng.uniform(0.1, 1.2))
    else:
        gaps = rng.uniform(-0.25, rng.uniform(0.2, 1.2), count)
    gaps[0] = 0
    return gaps


def _glyphs(text: str, size: int, rng: np.random.Generator) -> list[Image.Image]:
    """A mask of mode L for each character, as wide as its ink; all masks have the same height."""
    families = latin_families()
    one = choose_face(text, families, rng)
    mixed = rng.random() < 0.2
    faces: Sequence[Face] = [choose_face(c, families, rng) if mixed else one for c in text]
    turn = TURNS[rng.integers(len(TURNS))]
    unequal = rng.uniform(0, 0.25) if rng.random() < 0.3 else 0.0
    slant = rng.uniform(0, 0.5) if rng.random() < 0.15 else 0.0
    pen = Pen(bold=int(rng.random() < 0.1), hollow=rng.random() < 0.08)
    return [
        _glyph(
            character,
            face,
            round(size * (1 + unequal * rng.uniform(-1, 1))),
            (turn * rng.uniform(-1, 1), slant * rng.uniform(-1, 1)),
            pen,
            2 * size,
        )
        for character, face in zip(text, faces, strict=True)
    ]


def _glyph(
    character: str, face: Face, size: int, shape: tuple[float, float], pen: Pen, extent: int
) -> Image.Image:
    image = Image.new("L", (extent, extent))
    place = (extent / 2, extent / 2 + 0.35 * size)  # capitals are about 0.7 em high
    ImageDraw.Draw(image).text(
        place,
        character,
        0 if pen.hollow else 255,
        face.at(size),
        anchor="ms",
        stroke_width=max(pen.bold, pen.hollow),
        stroke_fill=255,
    )
    angle, slant = shape
    if slant:
        across = (1, slant, -slant * extent / 2, 0, 1, 0)
        image = image.transform(
            image.size, Image.Transform.AFFINE, across, Image.Resampling.BILINEAR
        )
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC)
    box = image.getbbox()
    assert box is not None, f"{character!r} has no ink"
    return image.crop((box[0], 0, box[2], extent))


def _ground_color(rng: np.random.Generator) -> np.ndarray:
    """White, a pale color or, rarely, any color."""
    kind = rng.random()
    if kind < 0.3:
        return np.full(3, 255.0)
    if kind < 0.85:
        return rng.uniform(150, 255, 3)
    return rng.uniform(0, 255, 3)


def _inks(count: int, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The color of each character, (count, 3), which can be told apart from the background."""
    # Half of all images have dark ink, the others any color.
    inks = rng.uniform(0, rng.choice((90, 255)), (16 * count, 3))
    light, below = inks @ LUMINANCE, float(ground @ LUMINANCE)
    enough = CONTRASTS[rng.integers(len(CONTRASTS))]
    order = np.argsort(np.abs(light - below) < enough, kind="stable")
    inks = inks[order][:count]
    return inks if rng.random() < 0.6 else np.repeat(inks[:1], count, axis=0)


def _lines(image: Image.Image, inks: np.ndarray, rng: np.random.Generator) -> None:
    """Draws lines, arcs or dots in black, in the colors of the ink, or in any color."""
    pencil = ImageDraw.Draw(image)
    width, height = image.size
    kind = rng.random()
    thick = 2 + max(image.height // 30, 1)

    def any_color() -> tuple[int, ...]:
        if kind < 0.35:
            return (0, 0, 0)
        return to_rgb(inks[rng.integers(len(inks))] if kind < 0.7 else rng.uniform(0, 255, 3))

    for _ in range(rng.integers(0, 9)):
        # Short, or from one side to the other.
        reach = width * (rng.uniform(0.1, 0.4) if rng.random() < 0.5 else rng.uniform(0.4, 1.2))
        x, y = rng.uniform(-0.2, 0.9) * width, rng.uniform(0, 1, 2) * height
        if rng.random() < 0.8:
            pencil.line((x, y[0], x + reach, y[1]), any_color(), int(rng.integers(1, thick)))
        else:
            box = (x, y.min(), x + reach, y.min() + rng.uniform(0.3, 1.5) * height)
            angle = rng.uniform(0, 360)
            pencil.arc(box, angle, angle + rng.uniform(60, 200), any_color(), 1)
    if rng.random() < 0.4:
        for _ in range(int(rng.uniform(0, 0.03) * width * height)):
            place = (rng.uniform(0, width), rng.uniform(0, height))
            pencil.point(place, any_color())


def _boxes(image: Image.Image, ground: np.ndarray, rng: np.random.Generator) -> None:
    """Draws frames with a light and a dark edge, which look raised or sunken."""
    pencil = ImageDraw.Draw(image)
    lit, dark = to_rgb(ground + 45), to_rgb(ground * 0.7)
    for _ in range(rng.integers(3, 25)):
        x, y = rng.uniform(-0.05, 1, 2) * image.size
        right, low = (x, y) + rng.uniform(0.1, 0.4, 2) * image.height
        first, second = (lit, dark) if rng.random() < 0.5 else (dark, lit)
        pencil.line((x, low, x, y, right, y), first, 1)
        pencil.line((right, y, right, low, x, low), second, 1)


def _worn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image after random changes: bent, blurred, speckled and reduced in size."""
    shape = Augmentation(strength=rng.uniform(0.3, 1.3), affine=0.3, perspective=0.15, curve=0.25)
    image = augmented(image, shape, rng)
    if rng.random() < 0.2 and image.height > 32:
        height = int(rng.integers(22, image.height))
        image = image.resize((max(image.width * height // image.height, 16), height))
    if rng.random() < 0.12:
        # Salt and pepper.
        pixels = np.asarray(image)
        struck = rng.random(pixels.shape[:2]) < rng.uniform(0.01, 0.12)
        salted = np.where(struck[..., None], 255 * rng.integers(0, 2), pixels)
        image = Image.fromarray(salted.astype(np.uint8))
    dirt = Augmentation(
        strength=rng.uniform(0.2, 1.0), blur=0.2, noise=0.15, contrast=0.2, jpeg=0.2
    )
    return augmented(image, dirt, rng)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
