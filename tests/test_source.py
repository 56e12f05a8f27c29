"""Images of one source: against brute force over all paths, and on logits that are made up."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from crnn_jax.decoding.source import MOST, SourcePath, counting
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.constraints import classes_of

ALPHABET = Alphabet("0o1lx")
ALL = np.arange(6) > 0
ANY = np.ones(MOST + 1, bool)


def spelled(texts: list[str], rivals: dict[str, str], steps: int) -> np.ndarray:
    """Logits (B, T, K) of images that a network reads with doubt.

    Each character has a time step of its own, then a blank. A character in `rivals` is a little
    less likely than the one that it is mistaken for.
    """
    logits = np.full((len(texts), steps, ALPHABET.num_classes), -8.0, np.float32)
    logits[:, :, 0] = 4
    for row, text in zip(logits, texts, strict=True):
        for place, character in enumerate(text):
            frame = row[2 * place + 1]
            frame[0] = -8
            frame[ALPHABET.classes(character)[0]] = 2.0
            if character in rivals:
                frame[ALPHABET.classes(rivals[character])[0]] = 2.4
    return logits


def test_the_path_is_the_best_of_all_by_its_weights() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (12, 4, 6)).astype(np.float32)
    weights = np.array([0, -1, 0, -2, 0, -0.5], np.float32)
    ends = np.full(MOST + 1, -math.inf, np.float32)
    ends[:5] = [0, -1, -3, -0.5, -2]
    decoder = SourcePath(*map(jnp.asarray, (counting(ALL), weights, ends)))
    decoding = decoder(logits, np.array([4, 3, 4, 2] * 3))
    for row, steps, path, score in zip(
        logits, [4, 3, 4, 2] * 3, decoding.path, decoding.log_probability, strict=True
    ):
        log_p = row[:steps] - np.log(np.exp(row[:steps]).sum(-1, keepdims=True))

        def weighted(path: tuple[int, ...], log_p: np.ndarray = log_p) -> float:
            text = [k for k, _ in itertools.groupby(path) if k]
            own = sum(log_p[t, k] for t, k in enumerate(path))
            return float(own + weights[text].sum() + ends[len(text)])

        best = max(itertools.product(range(6), repeat=steps), key=weighted)
        assert tuple(path[:steps].tolist()) == best
        assert score == pytest.approx(sum(log_p[t, k] for t, k in enumerate(best)), abs=1e-4)


def test_texts_of_most_characters_or_more_count_as_of_one_length() -> None:
    following = counting(ALL)
    state = 0
    for _ in range(MOST + 3):
        state = following[state, 2]
    assert state == MOST and (following[:, 0] == -1).all()


@pytest.mark.parametrize("sets", [True, False])
def test_characters_and_lengths_are_learned_from_the_other_images(sets: bool) -> None:
    """A network that takes 0 for o in one image of twenty is put right by the others."""
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("01"), 4)) for _ in range(80)]
    certain, doubtful = spelled(texts[:76], {}, 16), spelled(texts[76:], {"0": "o", "1": "l"}, 16)
    # A fifth character that is a little more likely than none, in images that have four.
    doubtful[:, 9, :] = -8
    doubtful[:, 9, [0, 1]] = [1.0, 1.2]
    logits, lengths = np.concatenate([certain, doubtful]), np.full(80, 16)
    priors = {"digits": 0.0, "alphanumeric": 0.0} if sets else {}
    decoder = SourcePath.learn(logits, lengths, priors, ALPHABET, ALL, ANY)
    decoding = decoder(logits, lengths)
    assert ALPHABET.decode_batch(decoding.path, lengths) == texts
    assert (np.asarray(decoder.following[0]) >= 0).sum() == (2 if sets else 5)
    alone = SourcePath.learn(doubtful[:1], lengths[:1], {}, ALPHABET, ALL, ANY)
    read = ALPHABET.decode_batch(alone(logits[76:77], lengths[:1]).path, lengths[:1])
    assert read != texts[76:77]


def test_all_lengths_and_characters_stay_possible() -> None:
    """A text unlike the others is still read if its image leaves no doubt."""
    texts = ["0101"] * 30 + ["xo"]
    logits, lengths = 3 * spelled(texts, {}, 12), np.full(31, 12)
    decoder = SourcePath.learn(logits, lengths, {}, ALPHABET, ALL, ANY)
    assert ALPHABET.decode_batch(decoder(logits, lengths).path, lengths) == texts


def test_what_is_known_is_kept() -> None:
    texts = ["010", "01", "0110"] * 5
    logits, lengths = spelled(texts, {}, 12), np.full(15, 12)
    allowed = np.arange(MOST + 1) == 3
    decoder = SourcePath.learn(logits, lengths, {}, ALPHABET, classes_of("1l", ALPHABET), allowed)
    read = ALPHABET.decode_batch(decoder(logits, lengths).path, lengths)
    assert {len(text) for text in read} == {3} and set("".join(read)) <= set("1l")
