"""Drawing a line of text as it looks in a photograph: font, colors, background, shape and dirt."""

import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from crnn_jax.data.augment import Augmentation, augmented
from crnn_jax.data.synthetic.fonts import Face, Family

SIZES = (20, 37)  # pixels, the range of font sizes
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
PALE = 63  # of 255; ink that is hardly visible


def choose_face(text: str, families: Sequence[Family], rng: np.random.Generator) -> Face:
    """Returns a random face with glyphs for all of `text`; all families are equally likely.

    Raises:
        ValueError: there is none.
    """
    needed = set(text) - {" "}
    for place in rng.permutation(len(families)):
        faces = [face for face in families[place] if face.characters >= needed]
        if faces:
            return faces[rng.integers(len(faces))]
    raise ValueError(f"no font has glyphs for all of {text!r}")


def photograph(
    text: str, face: Face, reach: float, least_height: int, rng: np.random.Generator
) -> bytes:
    """Draws a line of text as a camera might see it, as a JPEG.

    Args:
        text: one line.
        face: a face with glyphs for the text.
        reach: how much the shape may change, as the `strength` of an `Augmentation`.
        least_height: of the smallest images, in pixels.
        rng: the source of all random numbers.
    """
    size = int(rng.integers(*SIZES))
    layers = _cropped(_bent(_layers(text, face, size, rng), reach, rng), size, rng)
    image = _composed(layers, rng)
    far = rng.random() < 0.2 and image.height > least_height
    if far:
        height = int(rng.integers(least_height, image.height))
        image = image.resize((max(image.width * height // image.height, 4), height))
    dirt = Augmentation(
        strength=rng.uniform(0.2, 1.0), blur=0 if far else 0.4, noise=0.4, contrast=0.5
    )
    file = io.BytesIO()
    augmented(image, dirt, rng).save(file, "JPEG", quality=int(rng.integers(40, 96)))
    return file.getvalue()


def _layers(text: str, face: Face, size: int, rng: np.random.Generator) -> Image.Image:
    """Where the ink is: mode L, or RGB for fill, outline and shadow if the text has these."""
    font = face.at(size)
    spaced = rng.random() < 0.25
    bold = int(rng.random() < 0.15)
    pieces, places = [text], [0.0]
    if spaced:
        spacing = size * rng.uniform(-0.03, 0.3)
        pieces, steps = list(text), [font.getlength(piece) + spacing for piece in text]
        places = [0.0, *itertools.accumulate(steps)]
    # Large enough for all glyphs. Empty borders are cut off later.
    x, y, extent = size, 1.75 * size, (int((1.8 * len(text) + 2) * size), 3 * size)

    def drawn(stroke: int) -> Image.Image:
        image = Image.new("L", extent)
        draw = ImageDraw.Draw(image)
        for piece, place in zip(pieces, places, strict=False):
            draw.text((x + place, y), piece, 255, font, anchor="ls", stroke_width=stroke)
        return image

    fill = drawn(bold)
    if rng.random() < 0.03 and (box := fill.getbbox()):
        line = y + size * rng.uniform(0.08, 0.2)
        ends = [(box[0], line), (box[2], line)]
        ImageDraw.Draw(fill).line(ends, 255, int(rng.integers(1, 3)))
    outlined, shadowed = rng.random() < 0.12, rng.random() < 0.15
    if not outlined and not shadowed:
        return fill
    outline = drawn(bold + int(rng.integers(1, 3))) if outlined else Image.new("L", extent)
    shadow = Image.new("L", extent)
    if shadowed:
        by = rng.integers(1, 4, 2) * rng.choice((-1, 1), 2)
        shadow = ImageChops.offset(outline if outlined else fill, int(by[0]), int(by[1]))
        shadow = shadow.filter(ImageFilter.BoxBlur(rng.uniform(0, 3)))
    return Image.merge("RGB", (fill, outline, shadow))


def _bent(layers: Image.Image, reach: float, rng: np.random.Generator) -> Image.Image:
    """The layers with random changes of shape: stretched, rotated, in perspective, or curved."""
    box = layers.getbbox()
    assert box is not None, "a text without ink"
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    # Room for the changes. It is too small for one in thirty texts, which are not changed.
    x, y = int(reach * (0.09 * width + 0.18 * height)), int(reach * 0.3 * height)
    layers = layers.crop((left - x, top - y, right + x, bottom + y))
    if rng.random() < 0.3:
        wider = int(layers.width * np.exp(rng.uniform(-0.35, 0.35)))
        layers = layers.resize((wider, layers.height))
    change = Augmentation(
        strength=reach * rng.uniform(0.3, 1.0), affine=0.5, perspective=0.3, curve=0.2
    )
    bent = augmented(layers, change, rng)
    left, top, right, bottom = bent.getbbox() or (0, 0, 0, 0)
    inside = min(left, top) > 0 and right < bent.width and bottom < bent.height
    return bent if inside else layers  # if a letter would be cut off


def _cropped(layers: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """The layers cropped to their ink, with random margins."""
    ink = layers if layers.mode == "L" else ImageChops.lighter(*layers.split()[:2])
    box = ImageChops.subtract(ink, Image.new("L", ink.size, PALE)).getbbox() or ink.getbbox()
    assert box is not None, "a text without ink"
    left, top, right, bottom = box
    margins = (rng.uniform(0.02, 0.25, 4) * size).astype(int).tolist()
    # The background of a single dash is as high as that of a letter.
    more = max(size // 2 - (bottom - top), 0) // 2
    return layers.crop(
        (
            left - margins[0],
            top - margins[1] - more,
            right + margins[2],
            bottom + margins[3] + more,
        )
    )


def _composed(layers: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The layers in colors on a background, partly in uneven light, RGB."""
    ink, ground = _colors(rng)
    image = clouds(layers.size, ground, 40, rng)
    if rng.random() < 0.2:
        image = _with_shapes(image, ground, rng)
    fill = layers
    if layers.mode == "RGB":
        fill, outline, shadow = layers.split()
        deep = ground * rng.uniform(0.2, 0.6) if rng.random() < 0.7 else ground / 2 + 127
        image.paste(to_rgb(deep), mask=shadow)
        image.paste("white" if ink @ LUMINANCE < 128 else "black", mask=outline)
    uneven = rng.random() < 0.3
    image.paste(clouds(layers.size, ink, 25, rng) if uneven else to_rgb(ink), mask=fill)
    if rng.random() < 0.3:
        light = clouds(layers.size, np.full(3, 200.0), 55, rng)
        image = ImageChops.multiply(image, light)
    return image


def _colors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The colors of ink and background, of different lightness; either can be the darker one."""
    # Most print is black, white or gray, or nearly so.
    colors = 255 * rng.beta(0.6, 0.6, (4, 2, 3))
    saturation = rng.random((4, 2, 1)) ** 2
    colors = colors[..., :1] * (1 - saturation) + colors * saturation
    light = colors @ LUMINANCE
    contrast = np.abs(light[:, 0] - light[:, 1])
    enough = np.flatnonzero(contrast > (50, 80, 120)[rng.integers(3)])
    chosen = colors[enough[0] if enough.size else contrast.argmax()]
    return chosen[0], chosen[1]


def clouds(
    size: tuple[int, int], color: np.ndarray, reach: float, rng: np.random.Generator
) -> Image.Image:
    """Returns an image in one color, or with a gradient or clouds within +-reach of it."""
    cells = ((1, 1), (2, 2), (2, 2), (3, 6), (6, 24))[rng.integers(5)]
    if cells == (1, 1):
        return Image.new("RGB", size, to_rgb(color))
    reach *= rng.uniform(0.1, 1)
    lightness, hue = rng.uniform(-1, 1, (*cells, 1)), rng.uniform(-0.5, 0.5, (*cells, 3))
    coarse = np.clip(color + reach * (lightness + hue), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _with_shapes(image: Image.Image, ground: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The background with blurred shapes in similar colors."""
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 5)):
        color = to_rgb(ground + rng.uniform(-40, 40, 3))
        x = np.sort(rng.uniform(-0.2, 1.2, 2) * image.width).tolist()
        y = np.sort(rng.uniform(-0.5, 1.5, 2) * image.height).tolist()
        shape = (draw.ellipse, draw.rectangle, draw.line)[rng.integers(3)]
        shape((x[0], y[0], x[1], y[1]), fill=color)
    return image.filter(ImageFilter.BoxBlur(rng.uniform(0, 4)))


def to_rgb(values: np.ndarray) -> tuple[int, ...]:
    """Returns a color for Pillow; the values (3,) may be outside 0 to 255."""
    return tuple(np.clip(values, 0, 255).astype(int).tolist())
