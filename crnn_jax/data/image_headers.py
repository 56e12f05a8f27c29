"""Image files that would cost too much time or memory are refused before they are decoded."""

import io
import struct

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the accepted formats. Its other decoders are slow, or used in attacks."""

IMAGE_ENDINGS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Endings, in lower case, of the names of image files in these formats."""

MAX_BYTES = 50_000_000
"""The largest image file. Pillow may need ten bytes of memory for a byte of a malicious header."""

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded; Pillow's own limit is 179 million.

Pillow takes four bytes for a pixel, and decoding and converting take about three copies.
"""

MAX_SIDE = 100_000
"""Pixels of the longer side: a line of 32 px in height has room for some 5,000 characters.

JPEG and GIF end at 65,535, WEBP at 16,383. Resizing takes 16 bytes of memory for each pixel of a
side, and Pillow 8 for each row, so that an image of 1 x 50,000,000 would take 1.4 GB.
"""

_HEADER = 1 << 16  # bytes; the first image of a GIF may come after a global palette and a comment
_SEGMENTS = 1000  # before the pixels of a JPEG; a color profile has up to 255
_TILES = 4 * MAX_SIDE  # of a TIFF, which may have a strip for each row of each channel
_SCANS = 100  # of a progressive JPEG, which has about 10; this is libtiff's limit as well


def open_image(data: bytes) -> Image.Image:
    """Opens an image file with Pillow, without decoding it.

    Raises:
        ValueError: its size or its structure would cost too much.
        Exception: what Pillow raises for damaged files.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data):,} bytes, more than {MAX_BYTES:,}")
    if data.startswith((b"P1", b"P2", b"P3")):  # comments take quadratic time
        raise ValueError("PPM in ASCII (P1, P2, P3) is not supported")
    if data.startswith((b"P", b"GIF")):  # comments in the header take a long time, too
        Image.open(io.BytesIO(data[:_HEADER]), formats=FORMATS).close()
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    if data.startswith((b"II", b"MM")):
        _check_tiff(data)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    tile = [getattr(image, "tag_v2", {}).get(tag, 1) for tag in (322, 323)]  # of a TIFF
    check_size(*tile)
    return image


def check_size(width: int, height: int) -> None:
    """Checks the size of an image in pixels.

    Raises:
        ValueError: it has no pixels or more than `MAX_PIXELS`, or a side of more than `MAX_SIDE`.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"it has {width} x {height} pixels, more than {MAX_SIDE:,} on one side")


def _check_jpeg(data: bytes) -> None:
    """Checks how much Pillow has to read, byte by byte, up to the pixels, and how often those."""
    place = 2
    for _ in range(_SEGMENTS):
        marker = data.find(b"\xff", place, place + _HEADER)
        kind = data[marker + 1 : marker + 2]
        if marker < 0 or not kind:
            break
        if kind == b"\xda":
            if data.count(b"\xff\xda", marker) > _SCANS:  # each visits all pixels
                raise ValueError(f"it is a JPEG of more than {_SCANS} scans")
            return
        bare = kind in b"\x00\x01\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xff"  # without a length
        place = marker + (1 if kind == b"\xff" else 2)
        place += 0 if bare else int.from_bytes(data[place : place + 2])
    raise ValueError("it is a JPEG without pixels, or with too much before them")


def _check_tiff(data: bytes) -> None:
    """Checks the number of tiles or strips, which Pillow lists one by one."""
    if data.startswith(b"MM\0+"):  # which Pillow takes for a plain TIFF
        raise ValueError("BigTIFF in big-endian order is not supported")
    big = data.startswith(b"II+")
    start, count, entry, size = ("Q", "Q", "HHQQ", 20) if big else ("L", "H", "HHLL", 12)
    order = "<" if data.startswith(b"II") else ">"
    (place,) = struct.unpack_from(order + start, data, 8 if big else 4)
    (tags,) = struct.unpack_from(order + count, data, place)
    place += struct.calcsize(order + count)
    for tag in range(tags):
        kind, _, length, _ = struct.unpack_from(order + entry, data, place + tag * size)
        if kind in (273, 324) and length > _TILES:
            raise ValueError(f"it is a TIFF of more than {_TILES:,} tiles")
