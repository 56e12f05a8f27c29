"""Images become arrays: the one preprocessing of training, evaluation and prediction."""

import contextlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from crnn_jax.data.image_headers import FORMATS, MAX_PIXELS, check_size, open_image
from crnn_jax.errors import ConfigError, DataError

MIN_WIDTH = 8
"""Pixels; narrower images are widened to it, as the network needs this width."""

ROWS_MAY_BE_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Whether the installed Pillow resizes the rows of some images before their columns: of those whose
height shrinks by more than twice what their width does. Rounding differs."""

_STRIP = 1 << 20  # pixels converted at a time, as converting makes several copies

ImageLike: TypeAlias = bytes | Image.Image | np.ndarray
"""An image file's bytes, a Pillow image, or an array uint8: (H, W), (H, W, 1), or (H, W, 3), RGB.

`bytearray`, `memoryview` and the arrays of other libraries will do as well.
"""


@dataclass(frozen=True)
class Preprocessing:
    """The size and kind of prepared images. It is part of a trained model.

    Attributes:
        height: pixels.
        channels: 1 (gray) or 3 (RGB).
        width: pixels that all images are resized to; 0 keeps the aspect ratio of each image.
        max_width: pixels; images that would be wider are resized to it.
        invert: whether dark becomes light, for light text if a model was trained on dark text.

    Raises:
        ConfigError: a value is outside its range.
    """

    height: int = 32
    channels: int = 3
    width: int = 0
    max_width: int = 1024
    invert: bool = False

    def __post_init__(self) -> None:
        if self.height < 1:
            raise ConfigError(
                f"an image height of {self.height} is too small; set it to at least 1"
            )
        if self.channels not in (1, 3):
            raise ConfigError(
                f"{self.channels} channels are not supported; set 1 (gray) or 3 (RGB)"
            )
        if self.max_width < MIN_WIDTH:
            raise ConfigError(
                f"a max_width of {self.max_width} is too small; set it to at least {MIN_WIDTH}"
            )
        if self.width and not MIN_WIDTH <= self.width <= self.max_width:
            raise ConfigError(
                f"an image width of {self.width} is outside {MIN_WIDTH}..{self.max_width}"
                " (max_width); set one inside, or 0 to keep the aspect ratio of each image"
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Creates the preprocessing that `to_dict` described, in a manifest that was checked.

        Raises:
            ConfigError: a value is outside its range.
        """
        return cls(**data)

    def to_dict(self) -> dict[str, int]:
        """Describes the preprocessing in JSON types."""
        # Without `invert` if it is false: old checkpoints do not have it, and old versions of this
        # package can still read new checkpoints.
        return {key: value for key, value in asdict(self).items() if key != "invert" or value}


def target_width(size: tuple[int, int], preprocessing: Preprocessing) -> int:
    """Returns the width in pixels of the prepared image, given the size (width, height) before."""
    if preprocessing.width:
        return preprocessing.width
    width, height = size
    return min(
        max(round(width * preprocessing.height / height), MIN_WIDTH), preprocessing.max_width
    )


def header_size(data: bytes) -> tuple[int, int]:
    """Returns the width and height of an image file that is known to be undamaged and upright."""
    with open_image(data) as image:
        return image.size


def prepare(image: ImageLike, preprocessing: Preprocessing, name: str) -> np.ndarray:
    """Decodes and resizes an image; see `decode` and `resize`.

    Args:
        image: an `ImageLike`.
        preprocessing: size and kind of the result.
        name: identifies the image in errors.

    Returns:
        uint8 (height, W, channels).

    Raises:
        DataError, TypeError: as `decode`.
    """
    return resize(decode(image, preprocessing, name), preprocessing)


def decode(image: ImageLike, preprocessing: Preprocessing, name: str) -> Image.Image:
    """Decodes an image in its own size, with the channels that the preprocessing asks for.

    The image is rotated upright as its EXIF data says, transparency becomes white, and 16-bit gray
    is scaled to 8 bits. Of an animation the first frame is used. A Pillow image or an array that is
    passed in is not changed.

    Raises:
        DataError: the image is damaged, in none of the `FORMATS` or too large (see
            `image_headers`), or has gray values of unknown range (floats, 32 bits).
        TypeError: `image` is not `ImageLike`.
    """
    given = _bytes_or_image(image)
    try:
        with pillow_warnings_off, _opened(given) as opened:
            check_size(*opened.size)
            scaled = opened.mode != "I" or opened.format in ("PNG", "PPM")
            if opened.mode == "F" or not scaled:
                raise ValueError(f"the range of its gray values (mode {opened.mode}) is unknown")
            opened.load()
            if opened is image:
                upright = ImageOps.exif_transpose(opened)
            else:  # in place, as a copy takes a tenth of the time
                upright = opened
                ImageOps.exif_transpose(upright, in_place=True)
            return _converted(upright, "L" if preprocessing.channels == 1 else "RGB")
    # Pillow's decoders raise nearly any exception for damaged files.
    except Exception as error:
        if isinstance(given, bytes) and isinstance(error, UnidentifiedImageError):
            reason = f"its {len(given)} bytes are not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot read image {name!r}: {reason}; save it again as an 8-bit PNG of at most"
            f" {MAX_PIXELS // 1_000_000} megapixels, or leave it out"
        ) from error


def resize(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes a decoded image, and inverts it if the preprocessing asks for that.

    Returns:
        uint8 (height, W, channels), where W is the `target_width`.
    """
    size = (target_width(image.size, preprocessing), preprocessing.height)
    # Pillow's bilinear filter averages over all pixels that a target pixel covers, so thin strokes
    # do not alias when an image shrinks; bicubic and Lanczos would overshoot at edges. reducing_gap
    # would save time on huge images only and lose quality.
    image = image.resize(size, Image.Resampling.BILINEAR)
    if preprocessing.invert:
        image = ImageOps.invert(image)
    return np.array(image).reshape(*reversed(size), preprocessing.channels)


def pad_batch(images: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Stacks B images uint8 (H, W_i, C) into a batch, with zeros to the right of each image.

    Returns:
        The batch, uint8 (B, H, width, C), and the widths W_i, int32 (B,).

    Raises:
        ValueError: there are no images, or one is wider than `width`.
    """
    if not images:
        raise ValueError("there are no images to stack")
    widths = np.array([image.shape[1] for image in images], np.int32)
    if widths.max() > width:
        raise ValueError(f"an image {widths.max()} pixels wide does not fit a batch of {width}")
    height, _, channels = images[0].shape
    batch = np.zeros((len(images), height, width, channels), np.uint8)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1]] = image
    return batch, widths


class _PillowWarningsOff:
    """A context in which Pillow does not warn, as users cannot correct "invalid EXIF data".

    `warnings.catch_warnings` is not safe with threads: one that leaves late would restore the
    filters that another had set. Here the first thread to enter sets the filters, and the last to
    leave restores them. Code that decodes many images enters it once around all of them, as setting
    the filters takes a tenth of the time of decoding an image.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._saved.__exit__(None, None, None)


pillow_warnings_off = _PillowWarningsOff()


def _bytes_or_image(image: Any) -> bytes | Image.Image:
    """An image of any kind that is accepted as a file's bytes or as a Pillow image."""
    if isinstance(image, bytes | Image.Image):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if not hasattr(image, "__array__"):
        found = type(image).__name__
    else:
        array = np.asarray(image)
        if array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] in ((1,), (3,))):
            return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)
        found = f"array {array.shape} {array.dtype}"
    raise TypeError(
        f"{found} is no image; pass an image file's bytes, a Pillow image, or an array uint8 of"
        " shape (H, W) or (H, W, 3)"
    )


def _opened(given: bytes | Image.Image) -> contextlib.AbstractContextManager[Image.Image]:
    if isinstance(given, Image.Image):
        return contextlib.nullcontext(given)  # whoever opened it closes it
    return open_image(given)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The image in mode L or RGB, without transparency. Large images are converted in strips."""
    rows = max(1, _STRIP // image.width)
    if rows >= image.height or (image.mode == mode and not image.has_transparency_data):
        image = _on_white(_eight_bits(image))
        return image if image.mode == mode else image.convert(mode)
    result = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        result.paste(_converted(image.crop(box), mode), box)
    return result


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.uint32)
    # Pillow's own conversion clips at 255 and loses the transparent gray value of a PNG.
    values[values == image.info.get("transparency", -1)] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white
