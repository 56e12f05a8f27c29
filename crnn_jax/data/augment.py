"""Random changes to training images: shape, light and dirt, made with Pillow and NumPy.

The images are small and already prepared, so Pillow takes tens of microseconds for a change. The
larger augmentation libraries depend on OpenCV and would gain nothing.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from crnn_jax.errors import ConfigError

CELLS = 8  # of the mesh along the width of a curved image; with 8 one wave looks smooth
LEVELS = np.arange(256.0)  # all values of a channel

NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
"""256 equally likely values of the normal distribution. Picking one of them takes half of the time
that drawing a normal number takes."""


@dataclass(frozen=True)
class Augmentation:
    """The share of images in [0, 1] that gets each change, and how strong the changes are.

    Attributes:
        strength: multiplies the range of every change. At 1, changes range from hardly visible to
            hard to read.
        start: the share of a run after which the changes start.
        affine: shift, scale, rotation and shear.
        perspective: one side of the image becomes smaller than the other.
        curve: the line of text bends in a wave.
        blur: Gaussian blur.
        noise: Gaussian noise, independent for each value.
        contrast: contrast, brightness and color balance.
        invert: dark becomes light.
        lines: lines and dots in colors of the image.
        erase: rectangles in the color of the background.
        jpeg: compression as a JPEG of low quality.

    Raises:
        ConfigError: a value is outside its range.
    """

    strength: float = 1.0
    start: float = 0.0
    affine: float = 0.0
    perspective: float = 0.0
    curve: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    contrast: float = 0.0
    invert: float = 0.0
    lines: float = 0.0
    erase: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 3:
            raise ConfigError(f"augment.strength={self.strength}: must be above 0 and at most 3")
        if not 0 <= self.start <= 1:
            raise ConfigError(
                f"augment.start={self.start}: must be a share of the run, from 0 to 1"
            )
        for name, share in self.shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(
                    f"augment.{name}={share}: must be a share of the images, from 0 to 1"
                )

    @classmethod
    def from_config(cls, settings: Mapping[str, Any]) -> Self:
        """Creates it from the settings `config.augment`."""
        return cls(**settings)

    @property
    def shares(self) -> dict[str, float]:
        """The share of images that gets each change, by the name of the change."""
        names = (field.name for field in fields(self))
        return {name: getattr(self, name) for name in names if name not in ("strength", "start")}

    @property
    def active(self) -> bool:
        """Whether any change is ever made."""
        return any(self.shares.values())


def drawn_changes(augmentation: Augmentation, rng: np.random.Generator) -> list[str]:
    """Returns the names of the changes that `augment` makes with a generator in this state."""
    return [name for name, share in augmentation.shares.items() if rng.random() < share]


def augment(image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Returns a prepared image uint8 (H, W, C) with random changes; see `augmented`."""
    original = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.array(augmented(original, augmentation, rng)).reshape(image.shape)


def augmented(
    image: Image.Image, augmentation: Augmentation, rng: np.random.Generator
) -> Image.Image:
    """Returns an image of mode L or RGB with random changes. Its size stays the same.

    The same state of the generator gives the same image. Shape is changed before light and light
    before dirt, as it happens to real images, which are printed, lit and then photographed.
    """
    drawn = drawn_changes(augmentation, rng)
    strength = augmentation.strength
    if {"affine", "perspective", "curve"} & set(drawn):
        image = _warped(image, drawn, strength, rng)
    for name, change in CHANGES.items():
        if name in drawn:
            image = change(image, strength, rng)
    return image


def _warped(
    image: Image.Image, drawn: Sequence[str], strength: float, rng: np.random.Generator
) -> Image.Image:
    """All changes of shape in one resampling through a mesh, as each resampling blurs the image."""
    width, height = image.size
    cells = CELLS if "curve" in drawn else 1
    columns, rows = np.meshgrid(np.linspace(-1, 1, cells + 1), np.array([-1.0, 1.0]))
    # Where to read from, (2, cells + 1) each, in units of half the height from the center.
    x, y = columns * (width / height), rows
    if "affine" in drawn:
        angle = rng.uniform(-1, 1) * strength * min(0.10, 0.5 * height / width)
        shear = rng.uniform(-0.3, 0.3) * strength
        scale_x, scale_y = np.exp(rng.uniform(-0.1, 0.1, 2) * strength)
        x, y = scale_x * (x + shear * y), scale_y * y
        x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        shift = rng.uniform(-0.1, 0.1, 2) * strength
        x, y = x + shift[0], y + shift[1]
    if "perspective" in drawn:
        tilt = rng.uniform(-0.15, 0.15, 2) * strength
        depth = 1 + tilt[0] * columns + tilt[1] * rows
        x, y = x / depth, y / depth
    if "curve" in drawn:
        wave = rng.uniform(0.5, 1.5) * np.pi * columns + rng.uniform(0, 2 * np.pi)
        y = y + rng.uniform(-0.2, 0.2) * strength * np.sin(wave)
    x, y = (x * height + width) / 2, (y + 1) * height / 2
    edges = np.round(np.linspace(0, width, cells + 1)).astype(int)
    mesh = [
        (
            (int(edges[i]), 0, int(edges[i + 1]), height),
            # Corners in Pillow's order: upper left, lower left, lower right, upper right.
            tuple(
                float(value)
                for row, column in ((0, i), (1, i), (1, i + 1), (0, i + 1))
                for value in (x[row, column], y[row, column])
            ),
        )
        for i in range(cells)
        if edges[i] < edges[i + 1]
    ]
    return image.transform(
        image.size,
        Image.Transform.MESH,
        mesh,
        Image.Resampling.BILINEAR,
        fillcolor=_background(image),
    )


def _blur(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0) * strength))


def _contrast(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    gain = np.exp(rng.uniform(-0.4, 0.4) * strength)
    balance = rng.uniform(-15, 15, len(image.getbands())) * strength
    shift = rng.uniform(-30, 30) * strength + balance[:, None]
    changed = np.rint((LEVELS - 127.5) * gain + 127.5 + shift).clip(0, 255)
    return image.point(changed.astype(int).ravel().tolist())


def _invert(image: Image.Image, _strength: float, _rng: np.random.Generator) -> Image.Image:
    return ImageChops.invert(image)


def _lines(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    changed = image.copy()
    draw = ImageDraw.Draw(changed)
    for _ in range(rng.integers(1, 2 + round(2 * strength))):
        x, y = rng.uniform(-0.1, 1.1, 2) * width, rng.uniform(0, 1, 2) * height
        draw.line([(x[0], y[0]), (x[1], y[1])], _color(image, rng), int(rng.integers(1, 3)))
    for _ in range(rng.integers(0, 1 + round(width / 8 * strength))):
        place = (rng.uniform(0, width), rng.uniform(0, height))
        draw.circle(place, rng.uniform(0.3, 1.0), _color(image, rng))
    return changed


def _erase(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    changed = image.copy()
    # Narrower than a character, so that it can still be recognized.
    for _ in range(rng.integers(1, 3)):
        size = np.maximum(rng.uniform(0.1, 0.3, 2) * strength * height, 1).astype(int).tolist()
        top, left = int(rng.integers(0, max(height - size[0], 1))), int(rng.integers(0, width))
        changed.paste(_background(image), (left, top, left + size[1], top + size[0]))
    return changed


def _noise(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    noise = np.rint(rng.uniform(2, 16) * strength * NORMAL).astype(np.int16)
    values = np.asarray(image)
    chance = np.frombuffer(rng.bytes(values.size), np.uint8).reshape(values.shape)
    return Image.fromarray((values + np.take(noise, chance)).clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    quality = int(np.clip(95 - rng.uniform(20, 75) * strength, 5, 95))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data, formats=("JPEG",))


CHANGES: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "invert": _invert,
    "contrast": _contrast,
    "lines": _lines,
    "erase": _erase,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
}
"""Changes of light and dirt, in the order in which they are made."""


def _background(image: Image.Image) -> tuple[int, ...]:
    """The median color of the border."""
    values = np.asarray(image).reshape(image.height, image.width, -1)
    border = [values[0], values[-1], values[:, 0], values[:, -1]]
    in_order = np.sort(np.concatenate(border), axis=0)
    return tuple(in_order[len(in_order) // 2].tolist())


def _color(image: Image.Image, rng: np.random.Generator) -> Any:
    """The color of a random pixel, as dirt in the color of the text is the hardest to ignore."""
    row, column = int(rng.integers(image.height)), int(rng.integers(image.width))
    return image.getpixel((column, row))
