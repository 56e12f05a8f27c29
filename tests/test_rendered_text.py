"""Rendered text: no empty boxes, distinct characters, repeatable images, free fonts only."""

import io
import pickle
import string
import sys
import tomllib
from pathlib import Path

import fontpkg
import numpy as np
import pytest
from PIL import Image, ImageFont

from crnn_jax.data.sources.generated import load_generated
from crnn_jax.data.sources.split import Split
from crnn_jax.data.synthetic import fonts, texts
from crnn_jax.data.synthetic.drawing import _bent, _layers, choose_face
from crnn_jax.data.synthetic.fonts import CAPITALS, FAMILIES, chinese_families, latin_families
from crnn_jax.data.synthetic.rendered_text import RenderedText, sample
from crnn_jax.data.synthetic.texts import HANZI, PRINTABLE, chinese_text, word_text
from crnn_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
VARIANTS = ("words", "chinese")
NOT_A_CHARACTER = "\U0010ffff"  # no font has it, so the empty box is drawn for it


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Split]]:
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        for config in RenderedText.BUILDER_CONFIGS:
            patch.setattr(config, "num_test", 8)
        return {
            variant: load_generated({"variant": f"{variant}/40", "dir": str(folder)})
            for variant in VARIANTS
        }


def glyph(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    return bytes(font.getmask(character)) + repr(font.getbbox(character)).encode()


# Fonts


@pytest.mark.parametrize("place", range(len(FAMILIES)), ids=FAMILIES)
def test_no_latin_face_draws_an_empty_box(place: int) -> None:
    for face in latin_families()[place]:
        font = face.at(24)
        box = glyph(font, NOT_A_CHARACTER)
        drawn = {character: glyph(font, character) for character in PRINTABLE}
        written = face.characters & set(PRINTABLE)
        assert len(written) >= len(PRINTABLE) - len(string.ascii_lowercase)
        for character in written:
            assert drawn[character] != box and font.getmask(character).getbbox(), character
        # Labels cannot distinguish characters whose pixels are equal.
        assert len({drawn[character] for character in written - set("'`\"")}) >= len(written) - 4


def test_no_chinese_face_draws_an_empty_box() -> None:
    needed = HANZI + PRINTABLE + texts.PUNCTUATION + "".join(texts.BRACKETS)
    for (face,) in chinese_families():
        assert face.characters >= set(needed)
        font = face.at(24)
        box = glyph(font, NOT_A_CHARACTER)
        drawn = [glyph(font, character) for character in HANZI]
        assert box not in drawn and len(set(drawn)) == len(HANZI)


@pytest.mark.parametrize("place", range(len(FAMILIES)), ids=FAMILIES)
def test_lower_case_is_written_by_faces_that_have_it(place: int) -> None:
    """In such faces an x is lower than a capital X. The others draw a capital for it."""
    for face in latin_families()[place]:
        font = face.at(64)
        x, capital = (-font.getbbox(letter, anchor="ls")[1] for letter in "xX")
        small = x < 0.9 * capital
        if FAMILIES[place] in CAPITALS:
            assert not face.characters & set(string.ascii_lowercase)
        else:
            assert small and face.characters >= set(string.ascii_letters)


def test_weights_and_slopes_differ() -> None:
    for family in latin_families():
        assert len({glyph(face.at(40), "R") for face in family}) == len(family)


def test_all_fonts_are_free_and_named_in_the_extra() -> None:
    installed = fontpkg.families()
    assert {installed[name].license for name in FAMILIES} == {"OFL-1.1", "Apache-2.0"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {name for name in project["optional-dependencies"]["render"] if "fontpkg-" in name}
    assert named == {f"fontpkg-{name}" for name in FAMILIES}


def test_a_face_has_all_characters_of_its_text() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert choose_face("aA|~ 1", latin_families(), rng).characters >= set("aA|~1")
    with pytest.raises(ValueError, match="glyphs for all of '中'"):
        choose_face("中", latin_families(), rng)


@pytest.mark.parametrize("package", ["wordfreq", "fontpkg", "fontTools.ttLib"])
def test_a_package_that_is_not_installed_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for cached in (texts.english_words, fonts.latin_families, fonts._characters):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=r'package \w+ is not installed; .* "crnn_jax\[render\]"$'
    ):
        load_generated({"variant": "words/40", "dir": str(tmp_path)})
    assert not list(tmp_path.rglob("*.array_record*"))


def test_a_font_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts.latin_families.cache_clear()
    some = {name: family for name, family in fontpkg.families().items() if name != "kalam"}
    monkeypatch.setattr(fontpkg, "families", lambda: some)
    with pytest.raises(ConfigError, match="package fontpkg-kalam is not installed;"):
        latin_families()


# Texts


def test_the_common_characters_are_those_of_the_standard() -> None:
    """GB 2312-80, level 1: 3,755 characters from 啊 to 座, ordered by pronunciation."""
    assert len(set(HANZI)) == len(HANZI) == 3755
    assert (HANZI[0], HANZI[-1]) == ("啊", "座")
    assert set("的一是不了人我在有他这中大来上国") < set(HANZI)


def test_words() -> None:
    written = [word_text(np.random.default_rng((1, i))) for i in range(4000)]
    assert set("".join(written)) == set(PRINTABLE + " ")
    assert all(text == text.strip() and text for text in written)
    assert max(map(len, written)) < 60
    shares = {
        kind: np.mean([bool(test(text)) for text in written])
        for kind, test in {
            "word": str.isalpha,
            "lower": str.islower,
            "upper": str.isupper,
            "title": str.istitle,
            "digits": lambda text: any(map(str.isdigit, text)),
            "line": lambda text: " " in text,
        }.items()
    }
    assert shares["word"] > 0.6 and shares["digits"] > 0.1 and 0.02 < shares["line"] < 0.1
    assert min(shares["lower"], shares["upper"], shares["title"]) > 0.2
    # With the frequencies of books, half of the words would be one of a hundred.
    assert len({text.lower() for text in written}) > 3000


def test_chinese() -> None:
    written = [chinese_text(np.random.default_rng((1, i))) for i in range(20_000)]
    assert {len(text) for text in written} == set(range(5, 13))
    assert set(HANZI) < set("".join(written))
    hanzi = np.array([sum(c in HANZI for c in text) / len(text) for text in written])
    assert (hanzi == 1).mean() > 0.4 and (hanzi == 0).mean() < 0.06
    assert any(set(text) & set(HANZI) and set(text) & set(PRINTABLE) for text in written)


# Images


@pytest.mark.parametrize("kind", VARIANTS)
def test_images_can_be_read(kind: str) -> None:
    """Ink and background differ in lightness, and each character has some pixels of its own."""
    for index in range(150):
        text, data = sample(kind, (2, index))
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            light = np.asarray(image.convert("L"), int)
        height, width = light.shape
        assert 10 <= height <= 90 and width / height * 32 > 4 * len(text.replace(" ", ""))
        assert np.percentile(light, 98) - np.percentile(light, 2) > 25, (index, text)


@pytest.mark.parametrize("reach", [0.5, 3.0])
def test_no_letter_is_cut_off(reach: float) -> None:
    face = latin_families()[0][0]
    for index in range(100):
        rng = np.random.default_rng(index)
        straight = _layers("(Hxg)", face, 30, rng)
        bent = np.asarray(_bent(straight, reach, rng))
        edges = (bent[0], bent[-1], bent[:, 0], bent[:, -1])
        assert not any(edge.any() for edge in edges)
        assert bent.sum() > 0.3 * np.asarray(straight).sum()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_image_can_be_drawn_again_alone(
    variant: str, splits: dict[str, dict[str, Split]]
) -> None:
    for place, split in enumerate(("train", "test")):
        source = splits[variant][split]
        # Backward, so that a dependence on the order would be noticed.
        for i in reversed(range(len(source))):
            assert (source.labels[i], source.read(i)) == sample(variant, (0, place, i))


@pytest.mark.parametrize("variant", VARIANTS)
def test_worker_processes_can_read_them(variant: str, splits: dict[str, dict[str, Split]]) -> None:
    source = splits[variant]["train"]
    assert pickle.loads(pickle.dumps(source.read))(7) == source.read(7)
