"""Lexicons against brute force: the probability of each word is summed over all paths."""

import itertools
import logging
import math
from collections import defaultdict

import jax
import numpy as np
import pytest

from crnn_jax.decoding import Decoding
from crnn_jax.decoding.caseless import Caseless
from crnn_jax.decoding.lexicon import CANDIDATES, OwnLexicons, Words
from crnn_jax.decoding.options import make_decoder
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet

ALPHABET = Alphabet("ab1")
STEPS = 5


def probabilities(logits: np.ndarray, alphabet: Alphabet) -> dict[str, float]:
    """The probability of each text, given the logits (T, K) of an image."""
    frames = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(alphabet.num_classes), repeat=len(logits)):
        total[alphabet.decode(path)] += math.prod(frames[t, k] for t, k in enumerate(path))
    return total


def edits(first: str, second: str) -> int:
    """Levenshtein's distance, by its definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        edits(first[1:], second) + 1,
        edits(first, second[1:]) + 1,
        edits(first[1:], second[1:]) + (first[0] != second[0]),
    )


def read(decoding: Decoding, alphabet: Alphabet, place: int) -> list[str]:
    """The words of `labels`, which have no blanks between characters."""
    assert decoding.labels is not None
    rows = np.asarray(decoding.labels)[place]
    return ["".join(alphabet.characters[k - 1] for k in row if k) for row in rows]


def test_the_most_likely_of_the_nearest_words_is_read() -> None:
    words = ["".join(w) for n in range(1, 5) for w in itertools.product("ab1", repeat=n)]
    np.random.default_rng(0).shuffle(words)
    assert len(words) > 2 * CANDIDATES
    decoder = make_decoder(ALPHABET, {}, lexicon=words)
    logits = np.random.default_rng(1).normal(0, 2, (8, STEPS, 4)).astype(np.float32)
    lengths = [5, 5, 5, 4, 5, 3, 5, 0]
    # In a compiled function: the candidates are found on the host all the same.
    decoding = jax.jit(lambda decoder, *of: decoder(*of))(decoder, logits, np.array(lengths))
    texts = ALPHABET.decode_batch(decoding.path, lengths)
    found_best = 0
    for place, length in enumerate(lengths[:-1]):
        exact = probabilities(logits[place, :length], ALPHABET)
        plain = ALPHABET.decode(logits[place, :length].argmax(-1))
        nearest = sorted(words, key=lambda word: (edits(word, plain), words.index(word)))
        ranked = sorted(nearest[:CANDIDATES], key=lambda word: -exact[word])
        assert texts[place] == ranked[0]
        assert read(decoding, ALPHABET, place) == ranked[:10]
        assert decoding.label_log_probabilities is not None
        scores = np.exp(decoding.label_log_probabilities[place])
        np.testing.assert_allclose(scores, [exact[word] for word in ranked[:10]], atol=1e-5)
        assert math.isclose(math.exp(decoding.log_probability[place]), scores[0], rel_tol=1e-5)
        posterior = exact[ranked[0]] / sum(exact[word] for word in ranked)
        assert decoding.log_posterior is not None
        assert math.isclose(math.exp(decoding.log_posterior[place]), posterior, rel_tol=1e-4)
        best = max(words, key=lambda word: exact[word])
        assert best not in nearest[:CANDIDATES] or texts[place] == best
        found_best += texts[place] == best
        # The path is the most likely one of the word.
        paths = [
            (sum(logits[place, t, k] for t, k in enumerate(path)), path)
            for path in itertools.product(range(4), repeat=length)
            if ALPHABET.decode(path) == ranked[0]
        ]
        assert tuple(np.asarray(decoding.path)[place, :length].tolist()) == max(paths)[1]
    assert found_best >= 6
    assert texts[-1] == "" and decoding.log_probability[-1] == -math.inf
    assert decoding.log_posterior is not None and decoding.log_posterior[-1] == -math.inf
    assert read(decoding, ALPHABET, 7) == [""] * 10


def test_each_image_may_have_its_own_lexicon_without_case() -> None:
    """As if the network had one class for both cases; the words are read as they are written."""
    own = Alphabet("aAb")
    lexicons = [["Ab", "bb", "a", "B"], ["bAa", "AB", "ab"], ["aA", "b"]]
    logits = np.random.default_rng(2).normal(0, 2, (3, STEPS, 4)).astype(np.float32)
    decoder = Caseless.create(OwnLexicons.create(lexicons, own, caseless=True), own)
    decoding = jax.jit(lambda decoder, *of: decoder(*of))(decoder, logits, np.full(3, STEPS))
    texts = own.decode_batch(decoding.path)
    for place, words in enumerate(lexicons):
        merged = np.exp(logits[place])[:, [0, 1, 3]] + np.exp(logits[place])[:, [2]] * [0, 1, 0]
        exact = probabilities(np.log(merged), Alphabet("ab"))
        # Both B and b are written b, as the model has no B.
        spelled = {word: word.replace("B", "b") for word in words}
        distinct = list({word.lower(): spelled[word] for word in reversed(words)}.values())
        ranked = sorted(distinct, key=lambda word: -exact[word.lower()])
        assert texts[place] == ranked[0]
        assert read(decoding, own, place) == [*ranked, *[""] * (8 - len(ranked))]
        scores = np.exp(np.asarray(decoding.label_log_probabilities)[place, : len(ranked)])
        np.testing.assert_allclose(scores, [exact[w.lower()] for w in ranked], atol=1e-5)


def test_the_nearest_words_are_those_of_the_fewest_edits() -> None:
    words = Words.create(["aaaa", "ab", "abb", "bbbbbbb", "b1b1b1b1b1"], ALPHABET)
    assert sorted(words.nearest(["ab"], 2)[0].tolist()) == [1, 2]
    # Beyond the distance the order of the lexicon counts, unless nothing is nearer.
    assert sorted(words.nearest(["1"], 3)[0].tolist()) == [0, 1, 2]
    assert words.nearest(["1b1b1b1b1b1b1b"], 1)[0].tolist() == [4]


def test_words_that_the_model_cannot_write_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        words = Words.create(["a1", "x", "", "b", "a1", "A", "axb"], ALPHABET)
    assert words.texts == ["a1", "b"] and "5 of the lexicon's 7 words are left out" in caplog.text
    assert words.labels.tolist() == [[1, 3], [2, 0]]
    with pytest.raises(ConfigError, match="no word of the lexicon"):
        Words.create(["xyz", "A"], ALPHABET)
    # A model that ignores case, and one that reads without it.
    assert Words.create(["A1"], Alphabet("ab1", ignore_case=True)).texts == ["a1"]
    both = Words.create(["AB", "Ab", "É"], Alphabet("aAbBÉ"), caseless=True)
    assert both.texts == ["ab", "É"] and both.spelling.tolist() == [[2, 4], [5, 0]]


def test_words_have_the_characters_the_length_and_the_shape_that_are_asked_for() -> None:
    words = ["a", "ab", "a1", "bb", "abb", "b1"]
    for options, expected in (
        ({"alphabet": "ab"}, ["a", "ab", "bb", "abb"]),
        ({"length": 2}, ["ab", "a1", "bb", "b1"]),
        ({"shape": "[a-z][0-9]"}, ["a1", "b1"]),
        ({"shape": "A.", "caseless": True}, ["ab", "a1"]),
    ):
        decoder = make_decoder(ALPHABET, {}, lexicon=words, **options)
        lexicon = decoder.decoder if isinstance(decoder, Caseless) else decoder
        assert lexicon.words.texts == expected
    with pytest.raises(ConfigError, match="no word of the lexicon"):
        make_decoder(ALPHABET, {}, lexicon=words, length=4)
