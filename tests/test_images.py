"""Preprocessing of real files in every mode, compared with pixel values computed by hand."""

import contextlib
import io
import json
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from crnn_jax.data import images
from crnn_jax.data.image_headers import FORMATS, MAX_BYTES, MAX_PIXELS, MAX_SIDE
from crnn_jax.data.images import Preprocessing, pad_batch, prepare, target_width
from crnn_jax.errors import ConfigError, DataError

RGB = Preprocessing()
GRAY = Preprocessing(channels=1)
CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2" / "images"
REMEDY = "save it again as an 8-bit PNG of at most 50 megapixels, or leave it out"


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, color: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with headers and chunks that Pillow does not write."""
    header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        crc = zlib.crc32(kind + body)
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)
    return data


def colors(data: bytes, preprocessing: Preprocessing = RGB) -> set[tuple[int, ...]]:
    array = prepare(data, preprocessing, "x")
    return set(map(tuple, array.reshape(-1, preprocessing.channels).tolist()))


def reason(data: bytes, name: str = "bad.png") -> str:
    with pytest.raises(DataError) as caught:
        prepare(data, RGB, name)
    message = str(caught.value)
    start, end = f"cannot read image {name!r}: ", f"; {REMEDY}"
    assert message.startswith(start) and message.endswith(end) and "\n" not in message, message
    return message[len(start) : -len(end)]


# Sizes


@pytest.mark.parametrize(
    ("size", "width"),
    [
        ((200, 50), 128),  # 200 * 32 / 50
        ((100, 32), 100),
        ((101, 60), 54),  # 53.87
        ((100, 60), 53),  # 53.33
        ((1, 50), 8),
        ((1, 5000), 8),
        ((3200, 100), 1024),
        ((3201, 100), 1024),
        ((5000, 1), 1024),
    ],
)
def test_width_follows_the_ratio_between_the_bounds(size: tuple[int, int], width: int) -> None:
    assert target_width(size, RGB) == width
    assert target_width(size, Preprocessing(width=100)) == 100
    array = prepare(encode(Image.new("RGB", size)), RGB, "x")
    assert array.shape == (32, width, 3) and array.dtype == np.uint8


def test_other_height_and_fixed_width() -> None:
    data = encode(Image.new("RGB", (200, 50)))
    assert prepare(data, Preprocessing(height=48, channels=1), "x").shape == (48, 192, 1)
    assert prepare(data, Preprocessing(width=100), "x").shape == (32, 100, 3)


# Values


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_solid_color_stays_in_every_format(file_format: str) -> None:
    red, green, blue = (200, 40, 120)
    data = encode(Image.new("RGB", (50, 20), (red, green, blue)), file_format)
    array = prepare(data, RGB, "x").astype(int)
    tolerance = 3 if file_format in ("JPEG", "WEBP", "GIF") else 0
    assert np.abs(array - [red, green, blue]).max() <= tolerance
    luma = round(0.299 * red + 0.587 * green + 0.114 * blue)  # ITU-R BT.601
    assert np.abs(prepare(data, GRAY, "x").astype(int) - luma).max() <= max(tolerance, 1)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
        ("LA", (0, 51), (204, 204, 204)),  # 51/255 = 1/5 of black on white
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 99, (99, 99, 99)),
        ("I;16", 300, (1, 1, 1)),  # 300 / 257 = 1.17; clipped it would be 255
    ],
)
def test_modes_of_png(mode: str, color: Any, expected: tuple[int, ...]) -> None:
    assert colors(encode(Image.new(mode, (40, 40), color))) == {expected}


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled_not_clipped(file_format: str) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (32, 1))
    array = prepare(encode(Image.fromarray(ramp), file_format), GRAY, "x")
    assert array[:, :, 0].tolist() == [list(range(256))] * 32


def test_big_endian_tiff_and_odd_pgm_ranges() -> None:
    image = Image.frombytes("I;16B", (8, 32), struct.pack(">H", 257 * 7) * 8 * 32)
    assert colors(encode(image, "TIFF"), GRAY) == {(7,)}
    pgm = b"P5 8 32 1000\n" + struct.pack(">H", 200) * 8 * 32
    assert colors(pgm, GRAY) == {(51,)}  # 200 / 1000 * 255


def test_palette_and_its_transparency() -> None:
    image = Image.new("P", (64, 32))
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    image.paste(1, (32, 0, 64, 32))
    assert colors(encode(image)) == {(10, 20, 30), (200, 100, 0)}
    assert colors(encode(image, transparency=1)) == {(10, 20, 30), (255, 255, 255)}
    assert colors(encode(image, "GIF", transparency=0)) == {(255, 255, 255), (200, 100, 0)}
    half = encode(image, transparency=bytes([255, 51]))
    assert colors(half) == {(10, 20, 30), (244, 224, 204)}  # 1/5 of (200, 100, 0) on white


def test_transparent_color_of_gray_and_rgb() -> None:
    gray = Image.new("L", (32, 32), 9)
    assert colors(encode(gray, transparency=9)) == {(255, 255, 255)}
    assert colors(encode(gray, transparency=8)) == {(9, 9, 9)}
    rgb = Image.new("RGB", (32, 32), (1, 2, 3))
    assert colors(encode(rgb, transparency=(1, 2, 3))) == {(255, 255, 255)}
    rows = (b"\0" + struct.pack(">H", 1000) * 32) * 32
    for key, expected in ((1000, 255), (999, 4)):  # 1000 / 257 = 3.9
        chunks = ((b"tRNS", struct.pack(">H", key)), (b"IDAT", zlib.compress(rows)))
        assert colors(png(32, 32, 16, 0, *chunks), GRAY) == {(expected,)}


def test_cmyk_jpeg() -> None:
    image = Image.new("CMYK", (64, 32), (0, 255, 255, 0))  # magenta + yellow = red
    array = prepare(encode(image, "JPEG", quality=95), RGB, "x").astype(int)
    assert np.abs(array - [255, 0, 0]).max() <= 3
    assert prepare(encode(image, "TIFF"), GRAY, "x").shape == (32, 64, 1)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_exif_orientation_is_applied(file_format: str, mode: str) -> None:
    upright = Image.new(mode, (64, 32), "black")
    upright.paste("white", (0, 0, 32, 32))  # left half
    for orientation, stored in (
        (1, upright),
        (3, upright.transpose(Image.Transpose.ROTATE_180)),
        (6, upright.transpose(Image.Transpose.ROTATE_90)),  # to be turned clockwise
        (8, upright.transpose(Image.Transpose.ROTATE_270)),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        array = prepare(encode(stored, file_format, exif=exif), RGB, "x")
        assert array.shape == (32, 64, 3)
        assert array[:, :24].min() > 250 and array[:, 40:].max() < 5, orientation


def test_orientation_of_16_bit_gray() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.full((64, 32), 257 * 5, np.uint16)
    assert set(prepare(encode(Image.fromarray(stored), exif=exif), GRAY, "x").flat) == {5}


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(file_format: str) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("white", "black")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 2
    assert prepare(data, RGB, "x").min() > 250


def test_shrinking_keeps_thin_strokes() -> None:
    stripes = np.zeros((320, 320), np.uint8)
    stripes[:, ::2] = 255
    array = prepare(encode(Image.fromarray(stripes)), GRAY, "x")[:, 1:-1]
    assert np.abs(array.astype(int) - 127).max() <= 2  # nearest or plain bilinear: 0 or 255


def test_enlarging_does_not_overshoot() -> None:
    edge = np.full((8, 16), 100, np.uint8)
    edge[:, 8:] = 200
    array = prepare(encode(Image.fromarray(edge)), GRAY, "x")
    assert (array.min(), array.max()) == (100, 200)


def test_real_captchas() -> None:
    files = sorted(CAPTCHAS.iterdir())
    assert len(files) == 40
    for file in files:
        array = prepare(file.read_bytes(), GRAY, file.name)
        assert array.shape == (32, 128, 1)
        with Image.open(file) as image:
            original = np.asarray(image, float)
        assert abs(array.mean() - original.mean()) < 1 and array.std() > 20


@pytest.mark.parametrize("channels", [1, 3])
def test_inversion_undoes_that_of_the_file(channels: int) -> None:
    """Compared with Pillow's inversion before the image is saved and resized."""
    for path in sorted(CAPTCHAS.iterdir())[:3]:
        negative = encode(ImageOps.invert(Image.open(path).convert("RGB")))
        plain = prepare(path.read_bytes(), Preprocessing(channels=channels), "x")
        inverted = prepare(negative, Preprocessing(channels=channels, invert=True), "x")
        # Halves are rounded up before the inversion in one case, and after it in the other.
        np.testing.assert_allclose(inverted.astype(int), plain.astype(int), rtol=0, atol=1)


def test_transparency_becomes_white_before_the_inversion() -> None:
    image = Image.new("RGBA", (64, 32), (250, 200, 10, 0))
    assert colors(encode(image), Preprocessing(invert=True)) == {(0, 0, 0)}
    image.putalpha(255)
    assert colors(encode(image), Preprocessing(invert=True)) == {(5, 55, 245)}


def test_the_array_can_be_written_to() -> None:
    prepare(encode(Image.new("RGB", (32, 32))), RGB, "x")[:] = 1


# Images and arrays


def oddities() -> dict[str, bytes]:
    """Files of which more is to be done than to resize them."""
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1040, (32, 1))
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.fromarray((ramp >> 8).astype(np.uint8)))
    return {
        **{f"turned {kind}": encode(rgb, kind, exif=exif) for kind in ("JPEG", "PNG", "TIFF")},
        "16 bits": encode(Image.fromarray(ramp)),
        "16 bits, transparent": encode(Image.fromarray(ramp), transparency=1040),
        "16 bits, PPM": encode(Image.fromarray(ramp), "PPM"),
        "RGBA": encode(clear),
        "LA": encode(clear.convert("LA")),
        "palette, transparent": encode(rgb.quantize(8), transparency=3),
        "animation": encode(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]),
        "CMYK": encode(rgb.convert("CMYK"), "JPEG"),
        "bits": encode(rgb.convert("1")),
    }


@pytest.mark.parametrize("name", oddities())
@pytest.mark.parametrize("preprocessing", [RGB, GRAY])
def test_a_pillow_image_is_prepared_as_its_file(name: str, preprocessing: Preprocessing) -> None:
    data = oddities()[name]
    expected = prepare(data, preprocessing, "x")
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(prepare(image, preprocessing, "x"), expected)
        # It is still open, and is what it was.
        with Image.open(io.BytesIO(data)) as fresh:
            fresh.load()
            assert image.getexif() == fresh.getexif() and image.info == fresh.info
            assert image == fresh and image.tobytes() == fresh.tobytes()
            assert getattr(image, "n_frames", 1) == getattr(fresh, "n_frames", 1)
        if image.mode != "I":  # whose range only the file tells
            np.testing.assert_array_equal(prepare(image.copy(), preprocessing, "x"), expected)


@pytest.mark.parametrize("preprocessing", [RGB, GRAY])
def test_an_array_is_prepared_as_its_file(preprocessing: Preprocessing) -> None:
    color = np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8)
    gray = color[..., 0]
    for array, file in ((color, color), (gray, gray), (gray[..., None], gray)):
        expected = prepare(encode(Image.fromarray(file)), preprocessing, "x")
        before = array.copy()
        np.testing.assert_array_equal(prepare(array, preprocessing, "x"), expected)
        np.testing.assert_array_equal(array, before)
    # As OpenCV has them, turned round: a view whose strides are negative.
    np.testing.assert_array_equal(
        prepare(color[..., ::-1][..., ::-1], preprocessing, "x"),
        prepare(color, preprocessing, "x"),
    )
    assert prepare(color, preprocessing, "x").flags.writeable


def test_other_buffers_and_arrays() -> None:
    data = encode(Image.new("RGB", (40, 20), (10, 20, 30)))
    for buffer in (bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(prepare(buffer, RGB, "x"), prepare(data, RGB, "x"))

    class Tensor:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            return np.full((20, 40, 3), 7, np.uint8)

    tensor: Any = Tensor()
    assert set(prepare(tensor, RGB, "x").flat) == {7}


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (None, "NoneType"),
        (3, "int"),
        ("captcha.png", "str"),
        (np.zeros((20, 40)), r"array \(20, 40\) float64"),
        (np.zeros((20, 40, 3), np.float32), r"array \(20, 40, 3\) float32"),
        (np.zeros((20, 40), bool), r"array \(20, 40\) bool"),
        (np.zeros((20, 40, 4), np.uint8), r"array \(20, 40, 4\) uint8"),
        (np.zeros((3, 20, 40), np.uint8), r"array \(3, 20, 40\) uint8"),
        (np.zeros(20, np.uint8), r"array \(20,\) uint8"),
    ],
)
def test_what_is_of_another_type(image: Any, found: str) -> None:
    with pytest.raises(TypeError, match=rf"^{found} is no image; pass .* of shape \(H, W\) or"):
        prepare(image, RGB, "x")


@pytest.mark.parametrize("shape", [(0, 40), (20, 0, 3)])
def test_an_array_without_pixels(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"'x': it has {shape[1]} x {shape[0]} pixels"):
        prepare(np.zeros(shape, np.uint8), RGB, "x")


def test_a_pillow_image_without_known_range() -> None:
    for mode in ("I", "F"):
        with pytest.raises(DataError, match=f"mode {mode}"):
            prepare(Image.new(mode, (40, 20)), RGB, "x")


# Refusals


def test_files_that_are_not_images() -> None:
    formats = "PNG, JPEG, WEBP, BMP, GIF, TIFF or PPM"
    assert reason(b"a,b\n1,2\n", "notes\n.png") == f"its 8 bytes are not {formats}"
    assert reason(b"") == f"its 0 bytes are not {formats}"
    assert reason(encode(Image.new("RGB", (9, 9)), "ICO")).endswith(formats)


def test_every_truncation_is_a_data_error() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for file_format in FORMATS:
        data = encode(Image.fromarray(noise), file_format)
        reason(data[: len(data) // 2])
        for length in range(0, len(data), 41):
            with contextlib.suppress(DataError):
                prepare(data[:length], RGB, "x")


def test_damaged_bytes_give_an_image_or_a_data_error() -> None:
    rng = np.random.default_rng(0)
    for file_format in FORMATS:
        data = np.frombuffer(encode(Image.new("RGB", (24, 24), "red"), file_format), np.uint8)
        for _ in range(100):
            damaged = data.copy()
            damaged[rng.integers(0, min(len(data), 120), 3)] = rng.integers(0, 256, 3)
            try:
                prepare(damaged.tobytes(), RGB, "x")
            except DataError as error:
                assert "\n" not in str(error)


def test_size_is_checked_before_decoding() -> None:
    assert reason(png(10_000, 5_001, 8, 2)) == "it has 10000 x 5001 pixels"
    assert reason(png(10_000, 9_000, 8, 2)) == "it has 10000 x 9000 pixels"  # Pillow warns
    assert "decompression bomb" in reason(png(100_000, 100_000, 8, 2))
    assert MAX_PIXELS == 10_000 * 5_000
    assert "x 5000 pixels" not in reason(png(10_000, 5_000, 8, 2))  # no data: cannot be decoded
    for width, height in ((1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)):
        problem = f"it has {width} x {height} pixels, more than 100,000 on one side"
        assert reason(png(width, height, 8, 2)) == problem
    long = Image.new("L", (MAX_SIDE, 1))
    assert prepare(encode(long), GRAY, "x").shape == (32, 1024, 1)
    assert "more than 50,000,000" in reason(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize("data", [b"P1 2 1 0 1", b"P2 2 1 9 3 4", b"P3 1 1 9 3 4 5"])
def test_text_is_no_image(data: bytes) -> None:
    """Pillow takes quadratic time for comments between the numbers."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    assert reason(data) == "PPM in ASCII (P1, P2, P3) is not supported"


def test_long_comments_before_the_image() -> None:
    """Pillow reads them byte by byte, or block by block."""
    pixels = bytes(range(64))
    ppm = b"P5 8 8 255\n" + pixels
    for length in (50_000, 70_000):
        comment = b"a" * length
        gray = Image.frombytes("L", (8, 8), pixels)
        comments = b"P5\n#" + comment + b"\n"
        files = (ppm.replace(b"P5", comments), encode(gray, "GIF", comment=comment))
        for data, original in zip(files, (ppm, encode(gray, "GIF")), strict=True):
            if length > 65536:
                reason(data)
            else:
                expected = prepare(original, GRAY, "x")
                np.testing.assert_array_equal(prepare(data, GRAY, "x"), expected)


def test_jpegs_of_many_parts() -> None:
    """Pillow reads what comes before the pixels in Python; each scan visits all pixels."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    plain = encode(noise, "JPEG", progressive=True)
    expected = prepare(plain, RGB, "x")
    profile = encode(noise, "JPEG", progressive=True, icc_profile=b"\xff\xda" * 10**6)
    padded = plain[:20] + b"junk" + b"\xff" * 500 + plain[20:]  # after JFIF
    for data in (profile, padded):
        np.testing.assert_array_equal(prepare(data, RGB, "x"), expected)
    start = plain.rindex(b"\xff\xda")
    scans = plain[:-2] + plain[start:-2] * 100 + plain[-2:]
    assert reason(scans) == "it is a JPEG of more than 100 scans"
    for filler in (b"\xff" * 2000, b"\xff\xe5\0\2" * 2000, b"junk" * 20_000):
        assert "too much before them" in reason(plain[:20] + filler + plain[20:])


def tiff(order: str, big: bool, *tags: tuple[int, int, int]) -> bytes:
    """A gray TIFF of 10 x 10 pixels with more tags: number, how many values, value or place."""
    size = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1}
    every = sorted([*((tag, 1, value) for tag, value in size.items()), *tags])
    head = (43, 8, 0, 16, len(every)) if big else (42, 8, len(every))
    data = b"II" if order == "<" else b"MM"
    data += struct.pack(order + ("HHHQQ" if big else "HLH"), *head)
    for tag, count, value in every:
        data += struct.pack(order + ("HHQQ" if big else "HHLL"), tag, 4, count, value)
    return data + bytes(100)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_of_enormous_or_countless_tiles(order: str, big: bool) -> None:
    tile = ((322, 1, 20_000), (323, 1, 20_000), (324, 1, 200), (325, 1, 9))
    assert reason(tiff(order, big, *tile)) == "it has 20000 x 20000 pixels"
    for tag in (273, 324):
        countless = reason(tiff(order, big, (tag, 400_001, 8)))
        assert countless == "it is a TIFF of more than 400,000 tiles"
    rows = encode(Image.new("L", (10, 99), 7), "TIFF", tiffinfo={278: 1}, big_tiff=big)  # strips
    assert colors(rows, GRAY) == {(7,)}
    assert reason(tiff(">", True)) == "BigTIFF in big-endian order is not supported"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_the_largest_images_take_less_than_a_gigabyte() -> None:
    code = """if True:
        import io, resource
        from PIL import Image
        from crnn_jax.data.images import Preprocessing, prepare
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 550_000_000,) * 2)
        for mode in ("RGBA", "I;16"):
            file = io.BytesIO()
            Image.new(mode, (10_000, 5_000)).save(file, "PNG", compress_level=1)
            print(prepare(file.getvalue(), Preprocessing(), "x").shape)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(32, 64, 3)\n" * 2, done.stderr


@pytest.mark.parametrize("preprocessing", [RGB, GRAY])
def test_large_images_are_converted_in_strips(
    preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same result as at once."""
    files = oddities()
    expected = {name: prepare(data, preprocessing, name) for name, data in files.items()}
    for pixels in (1, 64 * 5):
        monkeypatch.setattr(images, "_STRIP", pixels)
        for name, data in files.items():
            array = prepare(data, preprocessing, name)
            np.testing.assert_array_equal(array, expected[name], name)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_gray_without_known_range(mode: str) -> None:
    data = encode(Image.new(mode, (32, 32)), "TIFF")
    assert reason(data) == f"the range of its gray values (mode {mode}) is unknown"


# Warnings


def test_pillow_warnings_do_not_leak() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + struct.pack("<HHII", 0x010F, 2, 99, 9999)
    data = encode(Image.new("RGB", (32, 32)), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning), Image.open(io.BytesIO(data)) as image:
            image.getexif().get(0)
        filters = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            arrays = list(pool.map(lambda _: prepare(data, RGB, "x"), range(64)))
        assert {array.shape for array in arrays} == {(32, 32, 3)}
        assert warnings.filters == filters


# Preprocessing


@pytest.mark.parametrize("invert", [False, True])
def test_dict_round_trip(invert: bool) -> None:
    preprocessing = Preprocessing(48, channels=1, width=100, max_width=200, invert=invert)
    as_json = json.dumps(preprocessing.to_dict())
    assert Preprocessing.from_dict(json.loads(as_json)) == preprocessing


def test_manifests_from_before_there_was_invert() -> None:
    old = {"height": 32, "channels": 3, "width": 0, "max_width": 1024}
    assert Preprocessing.from_dict(old) == RGB and RGB.to_dict() == old


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 0}, "height of 0 .*at least 1"),
        ({"channels": 4}, "4 channels .*set 1"),
        ({"width": 7}, r"width of 7 .*8\.\.1024"),
        ({"width": -8}, "width of -8 "),
        ({"width": 200, "max_width": 100}, r"width of 200 .*8\.\.100 \(max_width\)"),
        ({"max_width": 7}, "max_width of 7 .*at least 8"),
    ],
)
def test_values_out_of_range(values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**values)


# Batches


def test_pad_batch() -> None:
    images = [np.full((2, width, 3), width, np.uint8) for width in (3, 5, 1)]
    batch, widths = pad_batch(images, 5)
    assert batch.shape == (3, 2, 5, 3) and batch.dtype == np.uint8
    assert widths.tolist() == [3, 5, 1] and widths.dtype == np.int32
    for row, width in zip(batch, (3, 5, 1), strict=True):
        assert (row[:, :width] == width).all() and not row[:, width:].any()
    with pytest.raises(ValueError, match="5 pixels wide does not fit a batch of 4"):
        pad_batch(images, 4)
    with pytest.raises(ValueError, match="no images"):
        pad_batch([], 4)
