"""Where characters are: by hand, by the network's own geometry, and by how captchas are drawn."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crnn_jax import models
from crnn_jax.data.synthetic.captcha import CONFIGS, render
from crnn_jax.data.synthetic.captcha_boxes import render_with_boxes
from crnn_jax.decoding import Decoding, with_step_probabilities
from crnn_jax.decoding.options import make_decoder
from crnn_jax.models.conv_stack import ConvStack
from crnn_jax.recognition.positions import find_characters, time_step_places
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.results import Character
from crnn_jax.text.alphabet import Alphabet

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import positions

LETTERS = Alphabet("abc")


# The geometry of the network


@pytest.mark.parametrize(
    ("space_to_depth", "first_pool"), [(1, True), (2, True), (1, False), (2, False)]
)
def test_a_time_step_sees_its_place_in_its_middle(space_to_depth: int, first_pool: bool) -> None:
    """By brightening one column after another, which shows as all weights are positive."""
    width, height = 160 * space_to_depth, 32 * space_to_depth
    stack = ConvStack(
        (1,) * 7, batch_norm="none", space_to_depth=space_to_depth, first_pool=first_pool
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
    places = time_step_places(sees.shape[1], space_to_depth)
    assert len(places) == models.num_time_steps(width, space_to_depth)
    for step, place in enumerate(places):
        columns = np.flatnonzero(sees[:, step])
        first, last = columns[0], columns[-1] + 1  # the edges of the columns
        if first > 0 and last < width:  # not cut by a border
            assert (first + last) / 2 == place
    # The ends are symmetric, too: the first step sees the left border, the last one the right.
    assert (sees[::-1, ::-1] == sees).all()
    assert places[0] == 0 and places[-1] == width


# Characters of a path


def stripes(width: int, *ink: tuple[int, int]) -> np.ndarray:
    """An image (32, width, 1) that is plain, but for ink with contrast in these columns."""
    image = np.full((32, width, 1), 200, np.uint8)
    for start, end in ink:
        image[::2, start:end] = 20
    return image


def found(
    path: list[int], image: np.ndarray, width: int | None = None, probabilities: Any = 0.5
) -> tuple[Character, ...]:
    given = np.broadcast_to(np.float32(probabilities), len(path))
    return find_characters(np.array(path), given, LETTERS, image, width or image.shape[1], 1)


def test_spans_by_hand() -> None:
    """Time steps are 4 pixels apart, and the ink is where the characters were read."""
    path = [0] * 26
    path[5] = path[6] = 1  # in the middle of 20 and 24: at 22
    path[10] = path[11] = 2  # 42
    path[12] = 2  # 44
    path[17] = 2  # 68, after blanks: another b
    image = stripes(100, (15, 29), (37, 51), (60, 76))
    spans = [(c.text, c.start, c.end) for c in found(path, image)]
    # The distances are 22 and 24, in the median 23.0: half of 0.9 of it is 10.35.
    assert [text for text, _, _ in spans] == ["a", "b", "b"]
    np.testing.assert_allclose(
        [span[1:] for span in spans], [(11.65, 32.35), (33.65, 54.35), (57.65, 78.35)], atol=0.011
    )
    # In an image that was twice and a half as wide they are twice and a half as wide.
    wide = [(c.start, c.end) for c in found(path, image, 250)]
    np.testing.assert_allclose(wide, 2.5 * np.array([s[1:] for s in spans]), atol=0.02)


@pytest.mark.parametrize("late", [-5, -2, 0, 3, 6])
def test_a_habit_of_the_network_is_undone(late: int) -> None:
    """The ink is `late` pixels to the left of where it was read."""
    middles = np.array([16, 36, 56, 84])
    path = [0] * 26
    for middle, index in zip(middles, (1, 2, 3, 1), strict=True):
        path[middle // 4] = index
    image = stripes(100, *((m - late - 6, m - late + 6) for m in middles))
    centers = np.array([(c.start + c.end) / 2 for c in found(path, image)])
    np.testing.assert_allclose(centers, middles - late, atol=1.01)


def test_neighbors_share_and_borders_bound() -> None:
    """No two characters overlap, all are inside of the image, and each has a width."""
    rng = np.random.default_rng(0)
    for width in (8, 9, 33, 100):
        for _ in range(20):
            path = rng.integers(0, 4, width // 4 + 1).tolist()
            image = rng.integers(0, 256, (32, width, 3)).astype(np.uint8)
            characters = found(path, image, 1000)
            assert "".join(c.text for c in characters) == LETTERS.decode(path)
            edges = [edge for c in characters for edge in (c.start, c.end)]
            assert edges == sorted(edges)
            assert all(0 <= c.start < c.end <= 1000 for c in characters)
    # On a plain image nothing is moved: a distance of 40 makes a width of 36.
    path = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]
    assert [(c.start, c.end) for c in found(path, stripes(60))] == [(0, 30), (34, 60)]
    # One character alone is as wide as the image is high, or 0.9 of it.
    (alone,) = found([0] * 10 + [1] + [0] * 10, stripes(80))
    assert (alone.start, alone.end) == pytest.approx((40 - 14.4, 40 + 14.4))
    assert found([0, 0, 0], stripes(8)) == ()


def test_the_confidence_is_the_highest_one_of_the_character_s_time_steps() -> None:
    path = [0, 1, 1, 0, 1, 2, 0, 0]
    probabilities = [0.9, 0.5, 0.75, 0.95, 0.25, 0.625, 0.9, 0.9]
    characters = found(path, stripes(28), probabilities=probabilities)
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
    decoding: Decoding = with_step_probabilities(decoder(jnp.asarray(logits), lengths), logits)  # pyright: ignore[reportArgumentType]
    columns = [0, *alphabet.classes(allowed)]
    total = np.exp(logits)[..., columns].sum(-1)
    path = np.asarray(decoding.path)
    expected = np.take_along_axis(np.exp(logits), path[..., None], -1)[..., 0] / total
    assert decoding.step_probabilities is not None
    np.testing.assert_allclose(decoding.step_probabilities, expected, rtol=1e-5)
    # The best path's probability is the product of them.
    np.testing.assert_allclose(np.exp(decoding.log_probability), expected.prod(-1), rtol=1e-5)


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


def test_the_pretrained_model_finds_the_characters_of_captchas() -> None:
    right, found = positions.overlaps(Recognizer.load(), "lower", images=32, seed=5)
    assert right > 24
    assert np.mean(np.array(found) > 0.5) > 0.95
    assert np.mean(found) > 0.7


def test_overlap() -> None:
    assert positions.overlap((0, 4), (2, 6)) == pytest.approx(1 / 3)
    assert positions.overlap((0, 4), (5, 6)) == 0
    assert positions.overlap((1, 2), (1, 2)) == 1
