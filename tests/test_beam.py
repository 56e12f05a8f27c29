"""The beam search against brute force over all alignments, and against other implementations."""

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from plain_beam import plain_beam

from crnn_jax.decoding import Decoder, Decoding
from crnn_jax.decoding.alignment import align
from crnn_jax.decoding.beam import Beam, Language
from crnn_jax.decoding.options import make_decoder
from crnn_jax.decoding.paths import AllowedPath, CharsetPath
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.constraints import Automaton, classes_of
from crnn_jax.text.language_model import LanguageModel
from crnn_jax.text.ngrams import NGrams

ALPHABET = Alphabet("1aA")
CLASSES = ALPHABET.num_classes
STEPS = 4
ALL_TEXTS = 121  # of three characters, and up to four of them
IMAGES = 10  # the same in most tests, so that they share compiled programs
EVERY = np.arange(CLASSES) > 0
# Texts with an even number of letters and at most one digit: states are met from several sides.
EVEN = Automaton(
    np.array([[-1, 1, 2, 2], [-1, -1, 3, 3], [-1, 3, 0, 0], [-1, -1, 1, 1]], np.int32),
    np.array([True, True, False, False]),
)

Texts = dict[tuple[int, ...], float]


@jax.jit
def compiled(decoder: Decoder, logits: jax.Array, lengths: jax.Array) -> Decoding:
    return decoder(logits, lengths)


def decode(decoder: Decoder, logits: np.ndarray, lengths: list[int]) -> Decoding:
    return jax.tree.map(np.asarray, compiled(decoder, logits, np.array(lengths)))


def wide(allowed: AllowedPath, language: Language | None = None) -> Beam:
    return Beam.create(allowed, ALL_TEXTS, language)


def random_logits(count: int, seed: int, classes: int = CLASSES, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (count, steps, classes)).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k)


def all_texts(log_p: np.ndarray) -> Texts:
    """The probability of each text: the sum over all of its alignments."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        found[collapse(path)] += math.exp(sum(log_p[t, k] for t, k in enumerate(path)))
    return {text: math.log(p) for text, p in found.items() if p > 0}


def read(decoding: Decoding, image: int) -> list[tuple[tuple[int, ...], float]]:
    """The texts that were found, and their probabilities, in order."""
    assert decoding.labels is not None and decoding.label_log_probabilities is not None
    labels = decoding.labels[image].tolist()
    scores = decoding.label_log_probabilities[image].tolist()
    found = [
        (tuple(filter(None, label)), score)
        for label, score in zip(labels, scores, strict=True)
        if score > -math.inf
    ]
    assert all(not any(label) for label in labels[len(found) :])  # nothing comes after them
    assert len({text for text, _ in found}) == len(found)
    return found


def check(
    decoding: Decoding,
    image: int,
    length: int,
    expected: Mapping[tuple[int, ...], float],
    total: Callable[[tuple[int, ...]], float],
) -> None:
    """All expected texts were found, in the order of their total scores."""
    found = read(decoding, image)
    assert dict(found).keys() == expected.keys()
    for text, score in found:
        assert score == pytest.approx(expected[text], abs=1e-4)
    totals = [total(text) for text, _ in found]
    assert all(first >= second - 1e-4 for first, second in itertools.pairwise(totals))
    assert decoding.log_probability[image] == pytest.approx(
        found[0][1] if found else -math.inf, abs=1e-4
    )
    path = decoding.path[image].tolist()
    assert collapse(tuple(path)) == (found[0][0] if found else ())
    assert not any(path[length:])


def accepts(automaton: Automaton, text: tuple[int, ...]) -> bool:
    state = 0
    for k in text:
        state = automaton.following[state, k]
        if state < 0:
            return False
    return bool(automaton.accepting[state])


def language_model(seed: int, states: int = 3) -> LanguageModel:
    rng = np.random.default_rng(seed)
    odds = np.log(rng.dirichlet(np.ones(CLASSES), states)).astype(np.float32)  # the end is first
    following = rng.integers(0, states, (states, CLASSES)).astype(np.int32)
    return LanguageModel(following, odds, odds[:, 0])


def language_score(model: LanguageModel, text: tuple[int, ...]) -> float:
    state, score = 0, 0.0
    for k in text:
        score += float(model.log_probabilities[state, k])
        state = model.following[state, k]
    return score + float(model.end[state])


@pytest.mark.parametrize("model", [None, language_model(0)], ids=["alone", "language"])
@pytest.mark.parametrize(
    "automaton",
    [Automaton.of_length(EVERY), Automaton.of_length(EVERY, (2, 3)), EVEN],
    ids=["all", "length", "even"],
)
def test_a_wide_beam_finds_all_texts(automaton: Automaton, model: LanguageModel | None) -> None:
    weight, bonus = 0.7, 0.3
    language = None if model is None else Language.create(model, weight, bonus)
    decoder = wide(AllowedPath.create(automaton), language)
    logits, lengths = random_logits(IMAGES, 1), [4, 3, 0, 4, 1] * 2
    decoding = decode(decoder, logits, lengths)
    for image, length in enumerate(lengths):
        texts = all_texts(log_softmax(logits[image, :length]))
        expected = {text: p for text, p in texts.items() if accepts(automaton, text)}

        def total(text: tuple[int, ...], expected: Texts = expected) -> float:
            if model is None:
                return expected[text]
            return expected[text] + weight * language_score(model, text) + bonus * len(text)

        check(decoding, image, length, expected, total)


@pytest.mark.parametrize(("width", "classes"), [(6, 13), (12, 3)])
def test_a_narrow_beam_keeps_the_same_texts_as_a_plain_one(width: int, classes: int) -> None:
    """Of the many classes only the likely ones are tried, and yet nothing is lost.

    With few classes, prefixes leave the beam and come back while longer ones stay in it.
    """
    rng = np.random.default_rng(2)
    logits = random_logits(40, 2, classes=classes, steps=18)
    logits[20:, :, 0] += rng.choice([0, 8], (20, 18), p=[0.3, 0.7])  # peaky, as networks are
    lengths = [18, 18, 17, 9, 1] * 8
    decoder = Beam.create(AllowedPath.create(Automaton.of_length(np.arange(classes) > 0)), width)
    assert decoder.classes == min(width + 1, classes - 1)
    decoding = decode(decoder, logits, lengths)
    for image, length in enumerate(lengths):
        expected = plain_beam(log_softmax(logits[image, :length]).tolist(), width)
        found = read(decoding, image)
        assert [text for text, _ in found] == [text for text, _ in expected]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-4)


def test_the_plain_beam_is_exact_when_it_is_wide() -> None:
    for logits in random_logits(3, 3):
        log_p = log_softmax(logits)
        assert dict(plain_beam(log_p.tolist(), ALL_TEXTS)) == pytest.approx(all_texts(log_p))


def test_a_beam_does_not_fill_with_texts_that_cannot_end() -> None:
    """Four characters are wanted where the network sees fewer."""
    logits = random_logits(8, 4, classes=5, steps=7)
    logits[..., 0] += 4
    allowed = AllowedPath.create(Automaton.of_length(np.arange(5) > 0, 4))
    decoding = decode(Beam.create(allowed, 3), logits, [7] * 8)
    best_path = decode(allowed, logits, [7] * 8)
    for image in range(8):
        plain = plain_beam(log_softmax(logits[image]).tolist(), 3)
        assert all(len(text) < 4 for text, _ in plain)
        assert [len(text) for text, _ in read(decoding, image)] == [4, 4, 4]
    assert (decoding.log_probability >= best_path.log_probability - 1e-5).all()


def test_repeated_characters_need_a_blank_between_them() -> None:
    """Of the 8 paths of a and the blank in three time steps, one reads aa, and six read a."""
    logits = np.zeros((IMAGES, STEPS, CLASSES), np.float32)
    logits[..., [1, 3]] = -np.inf
    decoding = decode(wide(AllowedPath.create(Automaton.of_length(EVERY))), logits, [3] * IMAGES)
    found = {text: math.exp(score) for text, score in read(decoding, 0)}
    assert found == pytest.approx({(2,): 6 / 8, (): 1 / 8, (2, 2): 1 / 8})


def test_where_nothing_is_allowed_nothing_is_read() -> None:
    logits, lengths = random_logits(IMAGES, 5), [2, 0, 4] + [4] * (IMAGES - 3)
    logits[2] = -np.inf
    for length in (3, None):
        allowed = AllowedPath.create(Automaton.of_length(EVERY, length))
        decoding = decode(wide(allowed), logits, lengths)
        assert decoding.label_log_probabilities is not None
        assert not np.isnan(decoding.label_log_probabilities).any()
        assert decoding.log_probability[2] == -math.inf
        assert not decoding.path[2].any() and read(decoding, 2) == []
        if length is None:
            assert read(decoding, 1) == [((), 0.0)]  # no time steps: the empty text for sure
        else:
            assert read(decoding, 0) == read(decoding, 1) == []


def test_the_alignment_is_the_best_path_of_its_text() -> None:
    logits, lengths = random_logits(24, 6, steps=6), [6, 5, 2, 0] * 6
    rng = np.random.default_rng(6)
    labels = [rng.integers(1, CLASSES, rng.integers(0, 5)).tolist() for _ in lengths]
    padded = np.array([label + [0] * (6 - len(label)) for label in labels], np.int32)
    log_p = log_softmax(logits)
    paths = np.asarray(jax.jit(align)(log_p, np.array(lengths), padded))
    possible = 0
    for row, length, label, path in zip(log_p, lengths, labels, paths.tolist(), strict=True):
        scores = {
            p: sum(row[t, k] for t, k in enumerate(p))
            for p in itertools.product(range(CLASSES), repeat=length)
            if collapse(p) == tuple(label)
        }
        expected = max(scores, key=lambda p: scores[p]) if scores else (0,) * length
        assert path == [*expected, *[0] * (6 - length)]
        possible += bool(scores) and len(label) > 1
    assert possible > 5


def test_both_cases_of_a_character_count_as_one() -> None:
    """As if the network had one class for both, with the sum of their probabilities."""
    logits = random_logits(6, 7)
    probabilities = np.exp(log_softmax(logits))
    merged = probabilities[:, :, :3] + [0, 0, 1] * probabilities[:, :, 3:]
    decoder = make_decoder(ALPHABET, {}, caseless=True, beam_width=ALL_TEXTS)
    decoding = decode(decoder, logits, [STEPS] * 6)
    for image in range(6):
        texts = all_texts(np.log(merged[image]))
        check(decoding, image, STEPS, texts, texts.__getitem__)


def test_a_set_is_chosen_before_the_beam_runs() -> None:
    priors = {"digits": 0.5, "letters": 0.0}
    logits = random_logits(12, 8)
    decoding = decode(make_decoder(ALPHABET, priors, beam_width=ALL_TEXTS), logits, [STEPS] * 12)
    path = decode(CharsetPath.create(priors, ALPHABET), logits, [STEPS] * 12)
    seen = set()
    for image in range(12):
        chosen = "digits" if 1 in path.path[image] else "letters"
        seen.add(chosen)
        kept = [0, *np.flatnonzero(classes_of(chosen, ALPHABET))]
        texts = {
            tuple(int(kept[k]) for k in text): score
            for text, score in all_texts(log_softmax(logits[image][:, kept])).items()
        }
        check(decoding, image, STEPS, texts, texts.__getitem__)
    assert seen == {"digits", "letters"}


def test_a_language_model_decides_between_texts_that_look_alike() -> None:
    """An even chance for a and A after a 1: the language has `1A` alone."""
    ngrams = NGrams.train({"1A": 1.0}, order=2)
    decoder = make_decoder(ALPHABET, {}, language_model=ngrams)
    assert isinstance(decoder, Beam) and decoder.width == 10
    logits = np.full((IMAGES, STEPS, CLASSES), -9, np.float32)
    logits[:, [0, 1, 2, 3], [1, 0, 2, 0]] = 0
    logits[:, 2, 3] = -0.1  # a is a little more likely
    assert ALPHABET.decode(decode(decoder, logits, [STEPS] * IMAGES).path[0]) == "1A"
    plain = make_decoder(ALPHABET, {}, beam_width=10)
    assert ALPHABET.decode(decode(plain, logits, [STEPS] * IMAGES).path[0]) == "1a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_width": 0}, "a beam of 0 texts is not supported; choose 1 to 256"),
        ({"beam_width": 257}, "a beam of 257 texts is not supported"),
        (
            {"language_model": NGrams.train({"a": 1.0}, 1), "language_weight": 0.0},
            "cannot have the weight 0.0; choose a number above 0",
        ),
        (
            {"language_model": NGrams.train({"a": 1.0}, 1), "lexicon": ["a"]},
            "a lexicon and a language model do not go together",
        ),
    ],
)
def test_options_that_are_not_supported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_decoder(ALPHABET, {}, **options)
