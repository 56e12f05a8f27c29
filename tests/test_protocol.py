"""The benchmarks' scoring against a plain reading of its rules."""

import random
import string

import pytest

from crnn_jax.text.metrics import TextMetrics
from crnn_jax.text.protocol import SUBSETS, alphanumeric_match, confusable_match


def spelled_out(text: str) -> list[str]:
    """The 36 characters of a text, one by one."""
    kept = []
    for character in text:
        if character in string.digits or character in string.ascii_lowercase:
            kept.append(character)
        elif character in string.ascii_uppercase:
            kept.append(string.ascii_lowercase[string.ascii_uppercase.index(character)])
    return kept


def test_agrees_with_the_rule_read_plainly() -> None:
    rng = random.Random(0)
    right = 0
    for _ in range(20_000):
        a, b = ("".join(rng.choices("aAbB1-é 中", k=rng.randrange(4))) for _ in range(2))
        wanted = spelled_out(b)
        expected = spelled_out(a) == wanted if wanted else a.casefold() == b.casefold()
        assert alphanumeric_match(a, b) is expected, (a, b)
        right += expected
    assert 1000 < right < 19_000


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("levis", "Levi's", True),
        ("LEVI'S!", "levis", True),
        ("cafe", "café", False),  # é is dropped, e is not
        ("caf", "café", True),
        ("2:30", "230", True),
        ("", "!", False),  # nothing is left of the reference: compared whole
        ("!", "!", True),
        ("!", "", False),
        ("!", "!!", False),
        ("中国", "中国", True),
        ("中文", "中国", False),
        ("\N{KELVIN SIGN}", "k", False),  # lower() makes it a k, but it is none of the 36
        ("ß", "SS", False),
    ],
)
def test_by_hand(prediction: str, reference: str, right: bool) -> None:
    assert alphanumeric_match(prediction, reference) is right
    metrics = TextMetrics.from_texts([prediction], [reference]).compute()
    assert metrics["exact_match_alphanumeric"] == right


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("O0oIl1i", "0Oo1lIL", True),
        ("Ab1O", "aBL0", True),
        ("b0", "d0", False),
        ("11", "1", False),
        ("", "", True),
        ("!", "", False),
        ("2", "z", False),  # only what is alike in nearly every face counts
        ("5", "S", False),
    ],
)
def test_confusables(prediction: str, reference: str, right: bool) -> None:
    assert confusable_match(prediction, reference) is right
    metrics = TextMetrics.from_texts([prediction], [reference]).compute()
    assert metrics["exact_match_confusable"] == right


def test_subsets() -> None:
    labels = ["A", "42", "the", "Zone1", "Levi's", "£7", "café", "", "10:30", "a b c", "IV"]
    chosen = {name: [label for label in labels if of(label)] for name, of in SUBSETS.items()}
    assert chosen == {
        "all": labels,
        "alphanumeric": ["A", "42", "the", "Zone1", "IV"],
        "alphanumeric, 3 or more": ["the", "Zone1"],
    }
