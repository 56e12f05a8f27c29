"""Decoders against brute force over all paths, and the paper's example of best path decoding."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from crnn_jax.decoding import Decoder
from crnn_jax.decoding.options import make_decoder
from crnn_jax.decoding.paths import AllowedPath, BestPath, CharsetPath
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.constraints import Automaton, classes_of, parse_length

ALPHABET = Alphabet("01aA")
STEPS = 5


def decode(decoder: Decoder, logits: np.ndarray, lengths: list[int]) -> tuple[list[str], list]:
    """Texts and log probabilities."""
    # The sums over alignments, which test_calibration tests, are slow to compile.
    call = jax.jit(lambda *args: args[0](*args[1:]).replace(log_posterior=None))
    decoding = call(decoder, logits, np.array(lengths))
    texts = ALPHABET.decode_batch(decoding.path, lengths)
    return texts, np.asarray(decoding.log_probability).tolist()


def all_paths(
    logits: np.ndarray, classes: list[int], allowed: Callable[[str], bool]
) -> tuple[str, float]:
    """The best text and its log probability, over all paths of these classes and the blank."""
    kept = [0, *classes]
    rest = logits[:, kept] - np.log(np.exp(logits[:, kept]).sum(-1, keepdims=True))
    found = []
    for path in itertools.product(range(len(kept)), repeat=len(logits)):
        text = ALPHABET.decode([kept[k] for k in path])
        if allowed(text):
            found.append((float(sum(rest[t, k] for t, k in enumerate(path))), text))
    score, text = max(found, default=(-math.inf, ""))
    return text, score


def random_logits(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (count, STEPS, ALPHABET.num_classes)).astype(np.float32)


def test_the_best_path_is_that_of_the_largest_logits() -> None:
    logits, lengths = random_logits(40, 0), [*range(6)] * 6 + [5] * 4
    texts, scores = decode(BestPath(), logits, lengths)
    for row, length, text, score in zip(logits, lengths, texts, scores, strict=True):
        expected = all_paths(row[:length], [1, 2, 3, 4], lambda _: True)
        assert text == expected[0]
        assert score == pytest.approx(expected[1], abs=1e-4)


@pytest.mark.parametrize(
    ("characters", "length"),
    [
        ("01aA", None),
        ("digits", None),
        ("aA", None),
        ("01aA", 2),
        ("01aA", (2, 4)),
        ("digits", 3),
        ("a", (1, 2)),
        ("01aA", 5),
    ],
)
def test_an_allowed_path_is_the_best_of_all(
    characters: str, length: int | tuple[int, int] | None
) -> None:
    classes = classes_of(characters, ALPHABET)
    decoder = AllowedPath.create(Automaton.of_length(classes, length))
    least, most = length if isinstance(length, tuple) else (length or 0, length or STEPS)
    logits, lengths = random_logits(24, 1), [5, 4, 5, 3] * 6
    texts, scores = decode(decoder, logits, lengths)
    for row, steps, text, score in zip(logits, lengths, texts, scores, strict=True):
        expected = all_paths(
            row[:steps], np.flatnonzero(classes).tolist(), lambda t: least <= len(t) <= most
        )
        assert text == expected[0]
        assert score == pytest.approx(expected[1], abs=1e-4)


def test_an_automaton_with_several_ways_into_a_state() -> None:
    """Texts with an even number of letters, over random logits: states are met from two sides."""
    following = np.array([[-1, 0, 0, 1, 1], [-1, 1, 1, 0, 0]], np.int32)
    decoder = AllowedPath.create(Automaton(following, np.array([True, False])))
    logits = random_logits(24, 2)
    texts, scores = decode(decoder, logits, [STEPS] * 24)
    for row, text, score in zip(logits, texts, scores, strict=True):
        expected = all_paths(row, [1, 2, 3, 4], lambda t: sum(map(str.isalpha, t)) % 2 == 0)
        assert text == expected[0]
        assert score == pytest.approx(expected[1], abs=1e-4)


def test_a_set_is_chosen_by_bayes_rule() -> None:
    priors = {"digits": 0.5, "letters": -0.25, "alphanumeric": -1.0}
    decoder = CharsetPath.create(priors, ALPHABET)
    logits, lengths = random_logits(40, 3), [5, 4, 0, 3, 5] * 8
    texts, scores = decode(decoder, logits, lengths)
    seen = set()
    for row, length, text, score in zip(logits, lengths, texts, scores, strict=True):
        log_p = row[:length] - np.log(np.exp(row[:length]).sum(-1, keepdims=True))
        best = (-math.inf, "", 0.0)
        for name, prior in priors.items():
            kept = [0, *np.flatnonzero(classes_of(name, ALPHABET))]
            path = [kept[k] for k in log_p[:, kept].argmax(-1)]
            read = ALPHABET.decode(path)
            own = log_p[:, kept] - np.log(np.exp(log_p[:, kept]).sum(-1, keepdims=True))
            total = (
                log_p[:, kept].max(-1).sum()
                + 0.5 * len(read) * math.log(4 / (len(kept) - 1))
                + prior
            )
            best = max(best, (float(total), read, float(own.max(-1).sum())))
        seen.add(text.isdigit())
        assert text == best[1]
        assert score == pytest.approx(best[2], abs=1e-4)
    assert seen == {True, False}


def test_a_set_is_chosen_among_texts_of_a_length() -> None:
    priors = {"digits": 0.5, "letters": 0.0}
    decoder = CharsetPath.create(priors, ALPHABET, 2)
    logits = random_logits(24, 4)
    texts, _ = decode(decoder, logits, [STEPS] * 24)
    for row, text in zip(logits, texts, strict=True):
        log_p = row - np.log(np.exp(row).sum(-1, keepdims=True))
        found = []
        for path in itertools.product(range(5), repeat=STEPS):
            read = ALPHABET.decode(path)
            if len(read) == 2 and (read.isdigit() or read.isalpha()):
                # Both sets have two of the four characters.
                prior = priors["digits" if read.isdigit() else "letters"]
                found.append((sum(log_p[t, k] for t, k in enumerate(path)) + prior, read))
        assert text == max(found)[1]


def test_both_cases_of_a_character_count_as_one() -> None:
    """As if the network had one class for both, with the sum of their probabilities."""
    logits = random_logits(24, 5)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    merged = probabilities[:, :, :4] + [0, 0, 0, 1] * probabilities[:, :, 4:]
    lengths = [STEPS] * 24
    for arguments in ({}, {"length": 2}, {"alphabet": "letters"}, {"alphabet": "upper"}):
        decoder = make_decoder(ALPHABET, {}, **arguments, caseless=True)
        texts, scores = decode(decoder, logits, lengths)
        plain = make_decoder(Alphabet("01a"), {}, **(arguments | lower(arguments)))
        call = jax.jit(lambda *args: args[0](*args[1:]).replace(log_posterior=None))
        expected = call(plain, np.log(merged), np.array(lengths))
        assert texts == Alphabet("01a").decode_batch(expected.path, lengths)
        np.testing.assert_allclose(scores, expected.log_probability, atol=1e-4)


def lower(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"alphabet": "a"} if "alphabet" in arguments else {}


def test_a_text_that_no_image_of_this_width_can_hold_is_empty() -> None:
    decoder = make_decoder(ALPHABET, {}, length=4)
    texts, scores = decode(decoder, random_logits(2, 6), [3, 0])
    assert texts == ["", ""] and scores == [-math.inf, -math.inf]


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        ("digits", "01"),
        ("upper", "A"),
        ("digits+lower", "01a"),
        ("alphanumeric", "01aA"),
        ("A0", "0A"),
    ],
)
def test_sets_and_characters(characters: str, expected: str) -> None:
    allowed = classes_of(characters, ALPHABET)
    assert not allowed[0]
    assert "".join(ALPHABET.characters[i - 1] for i in np.flatnonzero(allowed)) == expected


def test_an_alphabet_that_ignores_case_takes_either() -> None:
    assert classes_of("upper", Alphabet("ab1", ignore_case=True)).tolist() == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("characters", ["0b", "xyz", "", "letters_"])
def test_characters_that_the_model_lacks_are_named(characters: str) -> None:
    with pytest.raises(ConfigError, match=r"the model cannot read '.*'; choose .* digits, lower"):
        classes_of(characters, ALPHABET)


def test_lengths_of_a_command_line() -> None:
    assert [parse_length(text) for text in ("5", "4-8", "1-1")] == [5, (4, 8), (1, 1)]
    for text in ("", "-3", "4-", "a", "4-8-9", "٣"):
        with pytest.raises(ConfigError, match="is not a length"):
            parse_length(text)
    for length in (0, (0, 3), (5, 4), 65, (1, 1000)):
        with pytest.raises(ConfigError, match="characters is not supported"):
            Automaton.of_length(np.ones(3, bool), length)
