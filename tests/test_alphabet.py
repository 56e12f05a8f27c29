"""Tests of the alphabet against an independent CTC collapse and hand-made cases."""

import json
import pickle
from dataclasses import FrozenInstanceError
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest

from crnn_jax.errors import ConfigError, DataError
from crnn_jax.text.alphabet import Alphabet, may_belong, min_time_steps

ABC = Alphabet("abc")


def collapse(path: tuple[int, ...], characters: str) -> str:
    return "".join(characters[index - 1] for index, _ in groupby(path) if index)


def encode(alphabet: Alphabet, text: str) -> np.ndarray:
    return alphabet.classes(alphabet.normalize(text))


def test_decode_equals_brute_force_on_every_path() -> None:
    for steps in range(6):
        for path in product(range(4), repeat=steps):
            assert ABC.decode(path) == collapse(path, "abc")


def test_min_time_steps_is_the_shortest_path_that_decodes_to_the_label() -> None:
    shortest: dict[str, int] = {}
    for steps in range(6):
        for path in product(range(3), repeat=steps):
            shortest.setdefault(collapse(path, "ab"), steps)
    for text, steps in shortest.items():
        assert min_time_steps(encode(Alphabet("ab"), text)) == steps, text
    assert min_time_steps(encode(ABC, "aabbb")) == 8


@pytest.mark.parametrize("text", ["", "中文", "中中", "é a", "a  é"])
def test_encoding_round_trips_through_a_ctc_path(text: str) -> None:
    alphabet = Alphabet("中文é a")
    label = encode(alphabet, text)
    assert label.dtype == np.int32 and label.shape == (len(alphabet.normalize(text)),)
    path = np.stack([label, np.zeros_like(label)], axis=1).ravel()  # a blank after each
    assert alphabet.decode(path) == alphabet.normalize(text)


def test_indices_follow_the_given_order_after_the_blank() -> None:
    assert encode(Alphabet("cab"), "abc").tolist() == [2, 3, 1]
    assert Alphabet("cab").num_classes == 4


def test_decode_batch_stops_at_the_lengths() -> None:
    paths = np.array([[1, 1, 0, 1], [2, 0, 3, 3]])
    assert ABC.decode_batch(paths) == ["aa", "bc"]
    assert ABC.decode_batch(paths, np.array([3, 1])) == ["a", "b"]
    assert ABC.decode_batch(paths, [0, 2]) == ["", "b"]
    for length in (-1, 5):
        with pytest.raises(DataError, match=f"length {length} "):
            ABC.decode_batch(paths, [1, length])


@pytest.mark.parametrize("index", [-1, 4])
def test_index_outside_the_classes_is_refused(index: int) -> None:
    assert ABC.decode([3]) == "c"
    with pytest.raises(DataError, match=f"index {index} "):
        ABC.decode([1, index])


def test_unseen_characters() -> None:
    assert ABC.classes("xaby").tolist() == [-1, 1, 2, -1]
    assert ABC.unseen("xaxyb") == "xy" and ABC.unseen("cab") == ""


def test_everything_is_nfc() -> None:
    composed, decomposed = Alphabet("\u00e9"), Alphabet("e\u0301")
    assert composed == decomposed and decomposed.num_classes == 2
    assert encode(composed, "e\u0301").tolist() == [1]
    assert Alphabet.from_labels(["e\u0301"]) == composed


@pytest.mark.parametrize("ordered", ["z\u0301", "z\u0315\u0316\u0301", "\u1112\u1161\u11ab"])
def test_lone_combining_marks_survive_next_to_letters(ordered: str, tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_text("\n".join(ordered), encoding="utf-8")
    for alphabet in (Alphabet.from_labels(ordered), Alphabet.from_file(path)):
        assert sorted(alphabet.characters) == sorted(ordered)
        assert Alphabet.from_dict(alphabet.to_dict()) == alphabet


def test_ignore_case_lowercases_alphabet_and_text() -> None:
    alphabet = Alphabet("bAaB", ignore_case=True)
    assert alphabet.characters == "ba"
    assert encode(alphabet, "ABa").tolist() == [2, 1, 2]
    assert encode(Alphabet("aA"), "A").tolist() == [2]
    with pytest.raises(ConfigError, match="U\\+0061"):
        Alphabet("aAa", ignore_case=True)  # a duplicate in the same case


def test_ignore_case_with_awkward_characters() -> None:
    turkish = Alphabet("Iİ", ignore_case=True)  # İ.lower() is i and a combining dot
    assert turkish.characters == "i\u0307" and encode(turkish, "İI").tolist() == [1, 2, 1]
    greek = Alphabet("ΑΣ", ignore_case=True)  # "ΑΣ".lower() ends in ς
    assert encode(greek, "ΣΑΣ").tolist() == [2, 1, 2] and greek.unseen("ς") == "ς"
    caron = Alphabet("J\u030c", ignore_case=True)  # only the lower case has a composed form
    assert caron.characters == "\u01f0" and caron.unseen("J\u030c") == ""


@pytest.mark.parametrize(
    ("characters", "named"),
    [
        ("", "empty"),
        ("aba", "U\\+0061"),
        ("\u00e9xe\u0301", "U\\+00E9"),
        ("a\tb", "U\\+0009"),
        ("a\n", "U\\+000A"),
        ("\ud800", "U\\+D800"),
        ("a\u2028", "U\\+2028"),
        ("a\u202e", "U\\+202E"),  # right-to-left override
        ("a\u2066", "U\\+2066"),  # left-to-right isolate
        ("\u200fa", "U\\+200F"),  # right-to-left mark
        ("a\u200b", "U\\+200B"),  # zero-width space
        ("\ufeffa", "U\\+FEFF"),  # byte order mark
        ("a\u00ad", "U\\+00AD"),  # soft hyphen
        ("\U000e0041", "U\\+E0041"),  # tag
    ],
)
def test_invalid_alphabets_are_refused(characters: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        Alphabet(characters)
    assert len(str(caught.value).splitlines()) == 1


def test_any_other_character_may_belong() -> None:
    assert not any(map(may_belong, "\t\n\ud800\u2028\u2029"))
    assert all(map(may_belong, "a中 ␣\u00a0\u0301\U0001f600"))
    # Persian "I go" has a non-joiner, Sinhala "Sri" a joiner; an Arabic sign around numbers.
    for text in (
        "\u0645\u06cc\u200c\u0631\u0648\u0645",
        "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
        "\u06dd",
    ):
        assert not Alphabet.from_labels([text]).unseen(text)
    assert encode(Alphabet("a␣"), "␣a").tolist() == [2, 1]


def test_from_file(tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_bytes("\ufeffb a\r\n中\n".encode())
    assert Alphabet.from_file(path).characters == "b a中"
    assert Alphabet.from_file(path, ignore_case=True).ignore_case
    with pytest.raises(ConfigError, match=r"missing\.txt"):
        Alphabet.from_file(tmp_path / "missing.txt")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        Alphabet.from_file(path)


def test_from_labels_sorts_by_code_point() -> None:
    assert Alphabet.from_labels(["中b", "aB", "a"]).characters == "Bab中"
    assert Alphabet.from_labels(["bB", "A"], ignore_case=True).characters == "ab"


def test_alphabet_is_an_immutable_value() -> None:
    with pytest.raises(FrozenInstanceError):
        ABC.characters = "x"  # pyright: ignore[reportAttributeAccessIssue]
    assert len({ABC, Alphabet("abc"), Alphabet("acb"), Alphabet("abc", ignore_case=True)}) == 3
    assert encode(pickle.loads(pickle.dumps(ABC)), "b").tolist() == [2]


@pytest.mark.parametrize(
    ("new", "old", "classes"),
    [
        (Alphabet("abc"), Alphabet("cab"), [0, 2, 3, 1]),
        (Alphabet("xbya"), Alphabet("ab"), [0, -1, 2, -1, 1]),
        (Alphabet("a"), Alphabet("A"), [0, -1]),
        # The old one has read both cases as the lower, which is a start for either.
        (Alphabet("aAb"), Alphabet("ab", ignore_case=True), [0, 1, 1, 2]),
        # The new one reads both cases as the lower: from that of the old one, else the upper.
        (Alphabet("ab", ignore_case=True), Alphabet("BAa"), [0, 3, 1]),
        (Alphabet("ab", ignore_case=True), Alphabet("BA", ignore_case=True), [0, 2, 1]),
        # In lower case it is two characters.
        (Alphabet("İi"), Alphabet("i", ignore_case=True), [0, -1, 1]),
    ],
)
def test_classes_in_another_alphabet(new: Alphabet, old: Alphabet, classes: list[int]) -> None:
    assert new.classes_in(old).tolist() == classes


def test_dict_round_trip() -> None:
    alphabet = Alphabet("中 Aé", ignore_case=True)
    copy = Alphabet.from_dict(json.loads(json.dumps(alphabet.to_dict())))
    assert copy == alphabet
    # Checkpoints of earlier versions also have a digest of the alphabet.
    assert Alphabet.from_dict({**ABC.to_dict(), "fingerprint": "be016b9454faae8f"}) == ABC
