"""Images that may come from a stranger."""

import collections
import functools
import io
import struct
import zlib
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from crnn_jax.data.image_headers import FORMATS
from crnn_jax.data.images import Preprocessing, prepare
from fuzzing.damage import Draw, change_bytes, files_in

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "tests" / "data" / "captcha_keras_v2" / "images" / "00027.png"


def create_images(folder: Path) -> None:
    """Writes an image."""
    (folder / "PNG").write_bytes(originals()["PNG"])


def damage_image(draw: Draw, folder: Path) -> None:
    """Writes one of the images, with other bytes, or as a PNG with other chunks."""
    (folder / "PNG").unlink()
    name = draw(st.sampled_from(sorted(originals())))
    data = originals()[name]
    is_png = data.startswith(b"\x89PNG")
    changed = change_png(draw, data) if is_png and draw(st.booleans()) else change_bytes(draw, data)
    (folder / name).write_bytes(changed)


@functools.cache
def originals() -> dict[str, bytes]:
    """An image in every format, and in rarer kinds of PNG, GIF, TIFF and JPEG."""
    files: dict[str, io.BytesIO] = collections.defaultdict(io.BytesIO)
    with Image.open(IMAGE) as opened:
        image = opened.convert("RGB")
    for kind in FORMATS:
        image.save(files[kind], kind)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        (image.convert("I") if mode == "I;16" else image).convert(mode).save(files[mode], "PNG")
    frames = [image, image.convert("L").convert("RGB")]
    image.save(files["animation"], "GIF", save_all=True, append_images=frames)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        image.save(files[compression], "TIFF", compression=compression)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(files["exif"], "JPEG", exif=exif, progressive=True)
    return {name: file.getvalue() for name, file in files.items()}


def change_png(draw: Draw, data: bytes) -> bytes:
    """Changes the chunks of a PNG, whose checksums stay right."""
    chunks: list[tuple[bytes, bytes]] = []
    place = 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += size + 12
    place = draw(st.integers(0, len(chunks) - 1))
    kind, body = chunks[place]
    if kind == b"IHDR" and draw(st.booleans()):
        sides = st.sampled_from((0, 1, 7, 1000, 7000, 10**5, 10**7, 2**31 - 1))
        fields = (
            draw(st.sampled_from((1, 2, 8, 16, 3))),
            draw(st.sampled_from((0, 2, 3, 4, 6, 5))),
        )
        body = struct.pack(
            ">IIBBBBB", draw(sides), draw(sides), *fields, 0, 0, draw(st.integers(0, 2))
        )
    elif draw(st.booleans()):
        kind = draw(
            st.sampled_from((b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iCCP", b"acTL", b"eXIf"))
        )
        bomb = b"name\0\0" + zlib.compress(b"\0" * 10**7)
        chunks.insert(place, (kind, draw(st.sampled_from((bomb, b"", body, b"\0" * 1000)))))
    else:
        body = change_bytes(draw, body)
    chunks[min(place, len(chunks) - 1)] = (kind, body)
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def read_images(folder: Path) -> None:
    """Decodes all images in a folder."""
    for path in files_in(folder):
        prepare(path.read_bytes(), Preprocessing(), path.name)
