"""Shapes against Python's own regular expressions, over all texts of a small alphabet."""

import itertools
import re
import sys
from typing import Any

import numpy as np
import pytest

from crnn_jax.decoding.caseless import Caseless
from crnn_jax.decoding.options import make_decoder
from crnn_jax.decoding.paths import AllowedPath
from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.constraints import Automaton, classes_of
from crnn_jax.text.shapes import automaton_of

ALPHABET = Alphabet("ab1")
TEXTS = ["".join(text) for n in range(6) for text in itertools.product("ab1", repeat=n)]
PLATES = Alphabet("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-京沪")


def allows(automaton: Automaton, text: str, alphabet: Alphabet = ALPHABET) -> bool:
    state = 0
    for index in alphabet.classes(text).tolist():
        state = automaton.following[state, index] if index > 0 else -1
        if state < 0:
            return False
    return bool(automaton.accepting[state])


def count_states(texts: set[str], longest: int) -> int:
    """The fewest states, by Myhill and Nerode: sets of texts that complete a beginning."""
    completions = set()
    for n in range(longest + 1):
        for beginning in map("".join, itertools.product("ab1", repeat=n)):
            rest = frozenset(t[n:] for t in texts if t.startswith(beginning))
            completions |= {rest} if rest or not n else set()
    return len(completions)


@pytest.mark.parametrize(
    "shape",
    [
        r"[ab]{2}1",
        r"\d{2,4}",
        r"(a|b1)[a-b1]*",
        r"[^a]+",
        r".*a.",
        r"(?:ab|1)?b",
        r"(?:a*b)*",
        r"((?:ab)*1){0,2}",
        r"\w-?\w",
        r"a|",
        r"[a-z]{1,3}|[0-9]",
        r"(ab){2,}",
        r"a+?b??1{,2}",
        r"x|a",
    ],
)
def test_a_shape_allows_what_a_regular_expression_matches(shape: str) -> None:
    automaton = automaton_of(shape, ALPHABET)
    expected = [text for text in TEXTS if re.fullmatch(shape, text)]
    assert expected and [text for text in TEXTS if allows(automaton, text)] == expected
    assert (automaton.following[:, 0] == -1).all() and automaton.following.dtype == np.int32


@pytest.mark.parametrize("shape", [r"[ab]{2}1", r"(ab|ba|11){1,2}", r"a(1|b1)?|b(1|b1)?", r"x|ab"])
def test_an_automaton_has_the_fewest_states(shape: str) -> None:
    texts = {text for text in TEXTS if re.fullmatch(shape, text)}
    assert len(automaton_of(shape, ALPHABET).accepting) == count_states(texts, 4)


def test_the_states_of_plates() -> None:
    sizes = [
        len(automaton_of(shape, PLATES).accepting)
        for shape in (r"[A-Z]{3}-[0-9]{4}", r"\d{4,8}", r"(京|沪)[A-Z][A-Z0-9]{5}", r".{1,64}")
    ]
    assert sizes == [9, 9, 8, 65]


def test_an_intersection_allows_what_both_allow() -> None:
    shapes = [r".*a.*", r"(..)*", r"[ab]{1,3}", r"1.*|a.*"]
    for first, second in itertools.combinations(shapes, 2):
        both = automaton_of(first, ALPHABET).intersection(automaton_of(second, ALPHABET))
        for text in TEXTS:
            expected = re.fullmatch(first, text) and re.fullmatch(second, text)
            assert allows(both, text) == bool(expected), (first, second, text)
    of_length = Automaton.of_length(classes_of("ab", ALPHABET), (2, 3))
    both = automaton_of(r"a+[b1]*", ALPHABET).intersection(of_length)
    assert [text for text in TEXTS if allows(both, text)] == ["aa", "ab", "aaa", "aab", "abb"]
    nothing = automaton_of("a", ALPHABET).intersection(automaton_of("b", ALPHABET))
    assert not nothing.accepting.any() and len(nothing.accepting) == 1


def test_a_path_of_a_shape_is_the_best_of_all() -> None:
    steps, shape = 4, r"[ab]1?[ab]"
    logits = np.random.default_rng(0).normal(0, 2, (8, steps, 4)).astype(np.float32)
    decoding = make_decoder(ALPHABET, {}, shape=shape)(logits, np.full(8, steps))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    every = itertools.product(range(4), repeat=steps)
    paths = [path for path in every if re.fullmatch(shape, ALPHABET.decode(path))]
    scores = log_p[:, np.arange(steps), paths].sum(-1)
    expected = [ALPHABET.decode(paths[place]) for place in scores.argmax(-1)]
    assert ALPHABET.decode_batch(decoding.path) == expected
    np.testing.assert_allclose(decoding.log_probability, scores.max(-1), atol=1e-4)


def of_decoder(own: Alphabet, sets: dict[str, float], **options: Any) -> Automaton:
    decoder = make_decoder(own, sets, **options)
    if isinstance(decoder, Caseless):
        decoder = decoder.decoder
    assert isinstance(decoder, AllowedPath)
    return Automaton(np.asarray(decoder.following), np.asarray(decoder.accepting))


@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ({"alphabet": "a1"}, "a1?a"),
        ({"length": 2}, "[ab]{2}"),
        ({"alphabet": "ab", "length": (1, 3)}, "[ab]{2}"),
    ],
)
def test_a_shape_is_met_within_an_alphabet_and_a_length(
    options: dict[str, Any], matches: str
) -> None:
    automaton = of_decoder(ALPHABET, {}, shape=r"[ab]1?[ab]", **options)
    assert [t for t in TEXTS if allows(automaton, t)] == [
        t for t in TEXTS if re.fullmatch(matches, t)
    ]


def test_a_shape_takes_the_place_of_a_models_sets() -> None:
    automaton = of_decoder(ALPHABET, {"digits": 0.0, "lower": 0.0}, shape="a1")
    assert [text for text in TEXTS if allows(automaton, text)] == ["a1"]


def test_reading_in_lower_case_finds_the_capitals_of_a_shape() -> None:
    both = Alphabet("aAbB1")
    automaton = of_decoder(both, {}, shape="[A-Z]{2}1", caseless=True)
    texts = ["".join(text) for text in itertools.product("aAbB1", repeat=3)]
    assert [text for text in texts if allows(automaton, text, both)] == ["aa1", "ab1", "ba1", "bb1"]
    ignoring = automaton_of("[A-B]1", Alphabet("ab1", ignore_case=True))
    assert [text for text in TEXTS if allows(ignoring, text)] == ["a1", "b1"]
    assert not allows(automaton_of("A|b", both), "a", both)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (r"[z-a]", "bad character range z-a"),
        ("(a", "missing \\), unterminated subpattern"),
        (r"a{", "is not finished"),
        (r"^a$", "cannot be understood.*whole text"),
        (r"(a)\1", "references"),
        (r"a(?=b)b", "lookarounds"),
        (r"\bfoo", "cannot be understood"),
        (r"[A-Z]{3}", "no text of the model's characters has the shape '\\[A-Z\\]\\{3\\}'"),
        ("a" * 201, "201 characters is too long"),
        (".*a.{8}", "is too large"),
        (".*a.{20}", "is too large"),
        ("(((a{30}){30}){30}){30}", "is too large"),
        ("a{1000000000}", "is too large"),
        ("((((((((((a*)*)*)*)*)*)*|b){99}){99}){99})", "is too large"),
    ],
)
def test_a_shape_that_cannot_be_used_is_one_line(shape: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        automaton_of(shape, ALPHABET)
    assert "\n" not in str(error.value)
    assert sys.getprofile() is None


def test_a_shape_that_no_allowed_text_has() -> None:
    with pytest.raises(ConfigError, match="no text of these characters and of this length"):
        make_decoder(ALPHABET, {}, shape="a{2}", length=3)
