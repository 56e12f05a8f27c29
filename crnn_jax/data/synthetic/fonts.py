"""The fonts that text is rendered with, all free and from PyPI, and their characters."""

import functools
import importlib.resources
import string
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import ImageFont

from crnn_jax.data.extras import import_extra, missing

FAMILIES = (
    # Sans serif, from wide to narrow, and rounded.
    *("open-sans", "roboto", "lato", "archivo", "montserrat", "poppins", "jost", "nunito"),
    *("oswald", "barlow-condensed", "chakra-petch", "comfortaa", "kanit"),
    # With straight strokes: technical fonts, and one of large pixels.
    *("orbitron", "saira", "exo-2", "rajdhani", "teko", "press-start-2p"),
    # Serif and slab serif.
    *("pt-serif", "merriweather", "libre-baskerville", "eb-garamond", "playfair-display"),
    *("bodoni-moda", "cinzel", "roboto-slab", "arvo", "zilla-slab"),
    *("alfa-slab-one",),
    # Monospaced.
    *("inconsolata", "space-mono", "ibm-plex-mono"),
    # Display.
    *("anton", "bebas-neue", "abril-fatface", "bungee", "black-ops-one", "luckiest-guy"),
    *("lilita-one", "righteous", "fredoka", "russo-one", "titan-one", "changa-one"),
    # Script and handwriting.
    *("lobster", "pacifico", "oleo-script", "yellowtail", "dancing-script", "caveat", "kalam"),
    *("permanent-marker", "indie-flower", "satisfy", "shadows-into-light"),
)
"""Latin fonts of the packages fontpkg-*, all under the Open Font License or Apache-2.0."""

CAPITALS = {"bebas-neue", "bungee", "cinzel", "luckiest-guy", "permanent-marker"}
"""Families that draw capitals for lower-case letters."""

CHINESE = ("NotoSansSC-Regular.otf", "NotoSerifSC-Regular.otf")
"""Files in the package pylopdf-fonts-zh-cn, under the Open Font License."""

WEIGHTS = (200, 400, 700, 900)

EXTRA = "render"  # installs all these packages


@dataclass(frozen=True)
class Face:
    """A font file in one weight, and the characters it has glyphs for."""

    path: Path
    weight: int | None  # of a variable font
    characters: frozenset[str]

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """Returns the font in a size in pixels."""
        return _load(self.path, self.weight, size)


Family: TypeAlias = tuple[Face, ...]


@functools.cache
def latin_families() -> tuple[Family, ...]:
    """Returns the faces of each of `FAMILIES`, upright and italic.

    Raises:
        ConfigError: a package is not installed.
    """
    installed = import_extra("fontpkg", EXTRA).families()
    families: list[Family] = []
    for name in FAMILIES:
        if name not in installed:
            raise missing(f"fontpkg-{name}", EXTRA)
        absent = string.ascii_lowercase if name in CAPITALS else ""
        faces = [
            Face(
                file.path,
                weight if file.variable else None,
                _characters(file.path).difference(absent),
            )
            for weight in WEIGHTS
            for file in installed[name].files
            if file.covers(weight)
        ]
        families.append(tuple(faces))
    return tuple(families)


@functools.cache
def chinese_families() -> tuple[Family, ...]:
    """Returns a family of one face for each of `CHINESE`.

    Raises:
        ConfigError: a package is not installed.
    """
    folder = importlib.resources.files(import_extra("pylopdf_fonts_zh_cn", EXTRA))
    paths = [Path(str(folder / name)) for name in CHINESE]
    return tuple((Face(path, None, _characters(path)),) for path in paths)


@functools.cache
def _characters(path: Path) -> frozenset[str]:
    """The characters that have a glyph. FreeType draws an empty box for all others."""
    ttlib = import_extra("fontTools.ttLib", EXTRA)
    with ttlib.TTFont(path, lazy=True) as font:
        return frozenset(map(chr, font.getBestCmap() or ()))


@functools.lru_cache(512)
def _load(path: Path, weight: int | None, size: int) -> ImageFont.FreeTypeFont:
    # Basic layout, as some builds of Pillow lack Raqm and would draw other images.
    font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    if weight is not None:
        font.set_variation_by_axes(
            [
                weight if axis.get("name") == b"Weight" else axis["default"] or 0
                for axis in font.get_variation_axes()
            ]
        )
    return font
