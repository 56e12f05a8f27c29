"""Where characters are: by hand, by the network's own geometry, and by how captchas are drawn."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from crnn_jax import predict
from crnn_jax.architecture import ARCHITECTURES, Architecture
from crnn_jax.commands import parse_flags
from crnn_jax.data.synthetic.captcha import CONFIGS, render
from crnn_jax.data.synthetic.captcha_boxes import render_with_boxes
from crnn_jax.decoding.options import make_decoder
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.models.conv_stack import ConvStack
from crnn_jax.recognition import drawing as drawing_module
from crnn_jax.recognition.jax_backend import decode
from crnn_jax.recognition.positions import find_characters, time_step_places
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.results import Alternative, Character, Explanation, Recognition
from crnn_jax.text.alphabet import Alphabet

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import positions

LETTERS = Alphabet("abc")


# The geometry of the network


@pytest.mark.parametrize(
    "described",
    [
        Architecture(),
        Architecture(space_to_depth=2),
        Architecture(first_pool=False),
        Architecture(space_to_depth=2, first_pool=False),
        ARCHITECTURES["dtrb"],
        ARCHITECTURES["nano_ocr"],
    ],
)
def test_a_time_step_sees_its_place_in_its_middle(described: Architecture) -> None:
    """By brightening one column after another, which shows as all weights are positive."""
    width, height = 160 * described.space_to_depth, 32 * described.space_to_depth
    stack = ConvStack(
        (1,) * len(described.convs),
        batch_norm="none",
        space_to_depth=described.space_to_depth,
        first_pool=described.first_pool,
        convs=described.convs,
    )
    widths = jnp.array([width])
    flat = jnp.ones((1, height, width, 1))
    shapes = jax.eval_shape(stack.init, jax.random.key(0), flat, widths, False)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)

    @jax.jit
    def outputs(columns: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(columns[None, None, :, None], flat.shape)
        return stack.apply(ones, x, widths, False)[0][0, 0, :, 0]  # pyright: ignore[reportIndexIssue, reportCallIssue]

    plain = np.asarray(outputs(jnp.ones(width)))
    bright = jax.jit(jax.vmap(lambda place: outputs(jnp.ones(width).at[place].set(3.0))))
    sees = np.asarray(bright(jnp.arange(width))) > plain * (1 + 1e-6)  # (W, T)
    places = time_step_places(sees.shape[1], described)
    assert len(places) == described.time_steps(width)
    for step, place in enumerate(places):
        columns = np.flatnonzero(sees[:, step])
        first, last = columns[0], columns[-1] + 1  # the edges of the columns
        if first > 0 and last < width:  # not cut by a border
            assert (first + last) / 2 == place
    # The ends are symmetric, too: in the paper's network the first step sees the left border, the
    # last one the right.
    assert (sees[::-1, ::-1] == sees).all()
    assert places[0] == width - places[-1] == described.first_place


# Characters of a path


def stripes(width: int, *ink: tuple[int, int]) -> np.ndarray:
    """An image (32, width, 1) that is plain, but for ink with contrast in these columns."""
    image = np.full((32, width, 1), 200, np.uint8)
    for start, end in ink:
        image[::2, start:end] = 20
    return image


def characters_of(
    path: list[int], image: np.ndarray, width: int | None = None, probabilities: Any = 0.5
) -> tuple[Character, ...]:
    given = np.broadcast_to(np.float32(probabilities), len(path))
    return find_characters(
        np.array(path), given, LETTERS, image, width or image.shape[1], Architecture()
    )


def test_spans_by_hand() -> None:
    """Time steps are 4 pixels apart, and the ink is where the characters were read."""
    path = [0] * 26
    path[5] = path[6] = 1  # in the middle of 20 and 24: at 22
    path[10] = path[11] = 2  # 42
    path[12] = 2  # 44
    path[17] = 2  # 68, after blanks: another b
    image = stripes(100, (15, 29), (37, 51), (60, 76))
    spans = [(c.text, c.start, c.end) for c in characters_of(path, image)]
    # The distances are 22 and 24, in the median 23.0: half of 0.9 of it is 10.35.
    assert [text for text, _, _ in spans] == ["a", "b", "b"]
    np.testing.assert_allclose(
        [span[1:] for span in spans], [(11.65, 32.35), (33.65, 54.35), (57.65, 78.35)], atol=0.011
    )
    # In an image that was twice and a half as wide they are twice and a half as wide.
    wide = [(c.start, c.end) for c in characters_of(path, image, 250)]
    np.testing.assert_allclose(wide, 2.5 * np.array([s[1:] for s in spans]), atol=0.02)


@pytest.mark.parametrize("late", [-5, -2, 0, 3, 6])
def test_a_habit_of_the_network_is_undone(late: int) -> None:
    """The ink is `late` pixels to the left of where it was read."""
    middles = np.array([16, 36, 56, 84])
    path = [0] * 26
    for middle, index in zip(middles, (1, 2, 3, 1), strict=True):
        path[middle // 4] = index
    image = stripes(100, *((m - late - 6, m - late + 6) for m in middles))
    centers = np.array([(c.start + c.end) / 2 for c in characters_of(path, image)])
    np.testing.assert_allclose(centers, middles - late, atol=1.01)


def test_neighbors_share_and_borders_bound() -> None:
    """No two characters overlap, all are inside of the image, and each has a width."""
    rng = np.random.default_rng(0)
    for width in (8, 9, 33, 100):
        for _ in range(20):
            path = rng.integers(0, 4, width // 4 + 1).tolist()
            image = rng.integers(0, 256, (32, width, 3)).astype(np.uint8)
            characters = characters_of(path, image, 1000)
            assert "".join(c.text for c in characters) == LETTERS.decode(path)
            edges = [edge for c in characters for edge in (c.start, c.end)]
            assert edges == sorted(edges)
            assert all(0 <= c.start < c.end <= 1000 for c in characters)
    # On a plain image nothing is moved: a distance of 40 makes a width of 36.
    path = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]
    assert [(c.start, c.end) for c in characters_of(path, stripes(60))] == [(0, 30), (34, 60)]
    # One character alone is as wide as the image is high, or 0.9 of it.
    (alone,) = characters_of([0] * 10 + [1] + [0] * 10, stripes(80))
    assert (alone.start, alone.end) == pytest.approx((40 - 14.4, 40 + 14.4))
    assert characters_of([0, 0, 0], stripes(8)) == ()


def test_the_confidence_is_the_highest_one_of_the_character_s_time_steps() -> None:
    path = [0, 1, 1, 0, 1, 2, 0, 0]
    probabilities = [0.9, 0.5, 0.75, 0.95, 0.25, 0.625, 0.9, 0.9]
    characters = characters_of(path, stripes(28), probabilities=probabilities)
    assert [(c.text, c.confidence) for c in characters] == [("a", 0.75), ("a", 0.25), ("b", 0.625)]


# What decoders say of the time steps


@pytest.mark.parametrize(
    ("options", "priors", "allowed"),
    [
        ({}, {}, "0123ab"),
        ({"alphabet": "012"}, {}, "012"),
        ({}, {"digits": 0.0}, "0123"),
        ({"alphabet": "ab", "caseless": True}, {}, "ab"),
    ],
)
def test_time_steps_have_the_probability_among_what_is_allowed(
    options: Any, priors: dict[str, float], allowed: str
) -> None:
    alphabet = Alphabet("0123456789ab" if priors else "0123ab")
    allowed = "0123456789" if priors else allowed
    logits = np.random.default_rng(1).normal(size=(2, 5, alphabet.num_classes)).astype(np.float32)
    decoder = make_decoder(alphabet, priors, **options)
    lengths = jnp.array([5, 5])
    decoding = decode(decoder, jnp.asarray(logits), lengths)
    columns = [0, *alphabet.classes(allowed)]
    total = np.exp(logits)[..., columns].sum(-1)
    path = np.asarray(decoding.path)
    expected = np.take_along_axis(np.exp(logits), path[..., None], -1)[..., 0] / total
    assert decoding.step_probabilities is not None
    np.testing.assert_allclose(decoding.step_probabilities, expected, rtol=1e-5)
    # The best path's probability is the product of them.
    np.testing.assert_allclose(np.exp(decoding.log_probability), expected.prod(-1), rtol=1e-5)


# Drawings, and the command

WORDS = "Ab3x", "0g7kQ"


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


@pytest.fixture
def captchas(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{place}.png" for place in range(len(WORDS))]
    for path, text in zip(paths, WORDS, strict=True):
        path.write_bytes(render(text, 3))
    return paths


def test_an_explanation_is_what_was_read_and_said(
    recognizer: Recognizer, captchas: list[Path]
) -> None:
    explanation = recognizer.explain(captchas[0])
    recognition = recognizer(captchas[0])
    assert explanation.recognition.text == recognition.text
    assert [c.start for c in explanation.recognition.characters] == (
        [c.start for c in recognition.characters]
    )
    steps, classes = explanation.probabilities.shape
    assert classes == len(explanation.alphabet) + 1
    assert explanation.image.size == (160, 60)
    assert len(explanation.places) == steps == Architecture(space_to_depth=2).time_steps(171)
    assert explanation.places[0] == 0 and 150 < explanation.places[-1] <= 160
    np.testing.assert_allclose(explanation.probabilities.sum(-1), 1, rtol=1e-5)
    with pytest.raises(DataError, match="its 8 bytes are not PNG"):
        recognizer.explain(b"no image")


def test_places_are_those_of_the_image_after_it_was_turned(
    recognizer: Recognizer, captchas: list[Path]
) -> None:
    """A photo that lies on its side by its EXIF data has its characters where it is upright."""
    image = Image.open(captchas[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    file = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    assert recognizer(file.getvalue()).characters == recognizer(captchas[0]).characters


def test_a_drawing_has_a_box_for_each_character() -> None:
    """In the color of each, from where it begins to where it ends, and nothing else of it."""
    image = Image.new("L", (64, 32), 255)
    characters = (Character("a", 0.5, 4, 20), Character("b", 0.75, 30, 60))
    drawing = drawing_module.draw(image, Recognition("ab", 0.4, characters))
    pixels = np.asarray(drawing)[: drawing_module.MARGIN + drawing_module.HEIGHT]
    scale = drawing_module.HEIGHT / 32
    for character, color in zip(characters, drawing_module.COLORS, strict=False):
        columns = np.flatnonzero((pixels == color).all(-1).any(0)) - drawing_module.MARGIN
        assert abs(columns.min() - scale * character.start) <= 1
        assert abs(columns.max() - scale * character.end) <= 1
    assert not (pixels == drawing_module.COLORS[2]).all(-1).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (4000, 8), (90, 30)])
def test_anything_can_be_drawn(size: tuple[int, int]) -> None:
    """Nothing read, characters that no font has, and other texts; at most about as wide as said."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 5).astype(np.float32)
    places = np.linspace(0, size[0], 5)
    width = size[0] / 3
    for text in ("", "a", "a\ue000b"):
        characters = tuple(
            Character(c, 0.999, place * width, (place + 1) * width) for place, c in enumerate(text)
        )
        others = (Alternative(text, 0.5), Alternative("zzz", 0.25))
        recognition = Recognition(text, 0.5, characters, others)
        image = Image.new("RGB", size)
        explanation = Explanation(image, recognition, probabilities, places, "ab\ue000")
        drawing = drawing_module.draw_explanation(explanation)
        assert drawing.width <= drawing_module.LARGEST + 2 * drawing_module.MARGIN
        assert drawing.height < 1_000


def test_predict_writes_characters_and_draws(
    recognizer: Recognizer,
    captchas: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Recognizer, "load", lambda *_, **__: recognizer)

    def run(*arguments: object) -> None:
        saved = flagsaver.save_flag_values(predict.FLAGS)
        try:
            predict.main(parse_flags(predict.FLAGS, ["predict", *map(str, arguments)]))
        finally:
            flagsaver.restore_flag_values(saved, predict.FLAGS)

    run("--format=jsonl", f"--draw={tmp_path / 'drawn'}", *captchas)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, expected in zip(rows, recognizer(captchas), strict=True):
        assert "".join(character["text"] for character in row["characters"]) == row["text"]
        assert [Character(**character) for character in row["characters"]] == (
            list(expected.characters)
        )
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert [name.endswith(f"{place}.png.drawn.png") for place, name in enumerate(names)] == (
        [True, True]
    )
    run("--draw", tmp_path / "one.png", captchas[0])
    assert len(capsys.readouterr().out.split("\t")) == 3
    drawing = (tmp_path / "drawn" / names[0]).read_bytes()
    assert (tmp_path / "one.png").read_bytes() == drawing
    for place, inputs, message in (
        (tmp_path / "one.png", captchas, "one image; name a folder"),
        (captchas[0], captchas[:1], "the image itself"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(f"--draw={place}", *inputs)


# Generated captchas


def test_boxes_are_where_the_library_pastes_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the masks that are pasted while the same captcha is drawn as ever."""
    pasted: list[tuple[float, float]] = []
    rows: list[tuple[int, int]] = []
    paste = Image.Image.paste

    def observe(image: Image.Image, im: Any, box: Any = None, mask: Any = None) -> None:
        if mask is not None and (ink := mask.getbbox()):
            # Characters that need more width are squeezed together with the image in the end.
            squeeze = min(40 * len(text) / image.width, 1)
            pasted.append(((box[0] + ink[0]) * squeeze, (box[0] + ink[2]) * squeeze))
            rows.append((max(box[1] + ink[1], 0), min(box[1] + ink[3], 60)))
        paste(image, im, box, mask)

    for index, text in enumerate(CONFIGS["cased"].texts()["test"][:12]):
        data, boxes = render_with_boxes(text, index)
        pasted.clear()
        rows.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "paste", observe)
            assert data == render(text, index)
        # Pixels with less than 1/255 of ink are not visible.
        columns = np.clip(pasted, 0, 40 * len(text))
        assert np.abs(columns - [(box[0], box[2]) for box in boxes]).max() <= 2
        assert np.abs(np.array(rows) - [(box[1], box[3]) for box in boxes]).max() <= 2
        lefts = [box[0] for box in boxes]
        assert lefts == sorted(lefts)


def test_the_pretrained_model_finds_the_characters_of_captchas(recognizer: Recognizer) -> None:
    right, found = positions.overlaps(recognizer, "lower", images=32, seed=5)
    assert right > 24
    assert np.mean(np.array(found) > 0.5) > 0.95
    assert np.mean(found) > 0.7


def test_overlap() -> None:
    assert positions.overlap((0, 4), (2, 6)) == pytest.approx(1 / 3)
    assert positions.overlap((0, 4), (5, 6)) == 0
    assert positions.overlap((1, 2), (1, 2)) == 1
