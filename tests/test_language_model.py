"""Language models against hand arithmetic, and against another reader of ARPA files."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

from crnn_jax import language_model as command
from crnn_jax.commands import parse_flags
from crnn_jax.errors import ConfigError
from crnn_jax.recognition.word_files import read_language_model
from crnn_jax.text import language_model
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.language_model import LanguageModel
from crnn_jax.text.ngrams import BEGIN, END, UNKNOWN, NGrams

WORDS = {"ab": 1.0, "b": 2.0}
# The texts have all that an ARPA file may have. The scores, of a text and its end, are those of
# KenLM's Python module 0.3.0, which read the file from \data\ on.
ARPA = r"""written by hand; -pruned 1e-7

\data\
ngram 1=6
ngram 2=5
ngram  3=2

\1-grams:
-1.2	<unk>
-99	<s>	-0.25
-0.8	</s>
-0.6	a	-0.5
-0.7	b	-0.125
-0.9	<space>	-0.3

\2-grams:
-0.4	<s> a	-0.75
-0.35 a b -0.0625
-0.5	b </s>
-0.45	b a
-0.55	a <space>	-0.2

\3-grams:
-0.15	<s> a b
-0.22	a b a

\end\
"""
SCORES = {
    **{"": -1.05, "a": -2.45, "b": -1.45, "ab": -1.1125, "aba": -2.07, "bab": -2.3125},
    **{"aab": -3.1625, "ba a": -4.35, "a b": -3.4, "x": -2.25, "axb": -4.05, "abab": -1.6825},
}


def score(model: LanguageModel, alphabet: Alphabet, text: str) -> float:
    """The logarithm to base 10 of the probability of a text and its end."""
    state, total = 0, 0.0
    for index in alphabet.classes(text):
        total += model.log_probabilities[state, index]
        state = model.following[state, index]
    return float(total + model.end[state]) / math.log(10)


def test_probabilities_are_those_of_hand_arithmetic() -> None:
    """Witten and Bell: (c(h, w) + t(h) p(w)) / (c(h) + t(h)), order 2."""
    ngrams = NGrams.train(WORDS, 2)
    expected = {
        # 7 characters, 3 of them distinct; with <unk> there are 4.
        **{"a": (1 + 3 / 4) / 10, "b": (3 + 3 / 4) / 10, END: (3 + 3 / 4) / 10},
        UNKNOWN: 3 / 4 / 10,
        # Words begin 3 times, in 2 ways.
        **{BEGIN + "a": (1 + 2 * 0.175) / 5, BEGIN + "b": (2 + 2 * 0.375) / 5},
        "ab": (1 + 0.375) / 2,
        "b" + END: (3 + 0.375) / 4,
    }
    log_probabilities = dict(ngrams.log_probabilities)
    assert log_probabilities.pop(BEGIN) == -99
    assert {k: 10**p for k, p in log_probabilities.items()} == pytest.approx(expected)
    weights = {context: 10**weight for context, weight in ngrams.backoffs.items()}
    assert weights == pytest.approx({BEGIN: 2 / 5, "a": 1 / 2, "b": 1 / 4})

    alphabet = Alphabet("abxy")
    model = LanguageModel.create(ngrams, alphabet)
    start = np.exp(model.log_probabilities[0, 1:])
    unknown = 2 / 5 * 0.075 / 2  # x and y share it
    np.testing.assert_allclose(start, [0.27, 0.55, unknown, unknown], rtol=1e-5)
    assert math.exp(model.end[0]) == pytest.approx(2 / 5 * 0.375)
    # After an a comes 1/2 of what single characters have, but for a b.
    after_a = np.exp(model.log_probabilities[model.following[0, 1], 1:3])
    np.testing.assert_allclose(after_a, [0.175 / 2, (1 + 0.375) / 2], rtol=1e-5)
    # An unknown character leaves no context.
    after_x = np.exp(model.log_probabilities[model.following[0, 3], 1:3])
    np.testing.assert_allclose(after_x, [0.175, 0.375], rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 6])
def test_the_probabilities_after_each_context_sum_to_one(order: int) -> None:
    words = {"banana": 3.0, "band": 1.0, "an": 0.5, "nab": 7.0, "b d": 2.0}
    ngrams = NGrams.train(words, order)
    alphabet = Alphabet("ban dx")
    model = LanguageModel.create(ngrams, alphabet)
    sums = np.exp(model.log_probabilities[:, 1:]).sum(-1) + np.exp(model.end)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    # The states of order 2 are the beginning and one of each character; x is like no context.
    assert len(model.end) == {1: 1, 2: 7}.get(order, len(model.end))
    assert score(model, alphabet, "nab") > score(model, alphabet, "bna") or order == 1
    # All is the same after writing it and reading it.
    again = LanguageModel.create(NGrams.from_arpa(ngrams.to_arpa()), alphabet)
    for text in map("".join, itertools.product("banx", repeat=4)):
        expected = score(model, alphabet, text)
        assert score(again, alphabet, text) == pytest.approx(expected, rel=1e-5)


def test_an_arpa_file_means_what_it_means_to_another_reader() -> None:
    alphabet = Alphabet("xba ")
    model = LanguageModel.create(NGrams.from_arpa(ARPA.splitlines()), alphabet)
    assert {text: score(model, alphabet, text) for text in SCORES} == pytest.approx(SCORES)
    for names in (("<unk>", "<UNK>"), ("<space>", "\u2581")):
        other = NGrams.from_arpa(ARPA.replace(*names).splitlines())
        again = LanguageModel.create(other, alphabet)
        assert score(again, alphabet, "axb a") == score(model, alphabet, "axb a")


def test_without_unknown_characters_in_the_file_others_are_not_read() -> None:
    lines = ARPA.replace("-1.2\t<unk>\n", "").replace("ngram 1=6", "ngram 1=5").splitlines()
    alphabet = Alphabet("xba ")
    model = LanguageModel.create(NGrams.from_arpa(lines), alphabet)
    assert score(model, alphabet, "x") < -99 and np.isfinite(model.log_probabilities).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\end\\\n", "", "no \\\\end"),
        ("ngram 2=5", "ngram 2=6", "has 5 2-grams, and announces 6"),
        ("ngram 2=5\n", "", "2-grams:' is not announced"),
        ("ngram 2=5", "ngram 2=many", "'many' is no number"),
        ("ngram 1=6\n", "", "not announced"),
        ("-0.35 a b -0.0625", "-0.35 a", "is not a probability, 2 characters"),
        ("-0.35 a b -0.0625", "-0.35 a b -0.06 7", "is not a probability"),
        ("-0.35 a b", "0.35 a b", "no logarithm of a probability"),
        ("-0.35 a b", "nan a b", "no logarithm"),
        ("-0.35 a b", "x a b", "no logarithm"),
        ("-0.35 a b -0.0625", "-0.35 a b inf", "no logarithm"),
        ("-0.5\tb </s>", "-0.5\ta b", "listed twice"),
        ("-0.6\ta", "-0.6\tthe", "token 'the' in line 12.*characters is needed"),
        (ARPA, "", "no \\\\end"),
        (ARPA, "\\data\\\n\\end\\", "its orders are not 1, 2"),
        ("ngram  3=2", "ngram  3=2\nngram 5=0", "its orders are not 1, 2"),
    ],
)
def test_a_damaged_file_is_one_line(old: str, new: str, message: str) -> None:
    assert old in ARPA
    with pytest.raises(ConfigError, match=message) as error:
        NGrams.from_arpa(ARPA.replace(old, new).splitlines())
    assert "\n" not in str(error.value)


def test_any_damage_is_found_or_harmless() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = list(ARPA)
        for place in rng.integers(len(text), size=2):
            text[place] = rng.choice(list("\\-\t\n 19ae<>="))
        try:
            LanguageModel.create(NGrams.from_arpa("".join(text).splitlines()), Alphabet("xab "))
        except ConfigError as error:
            assert "\n" not in str(error)  # others must not be raised


def test_what_cannot_be_trained_or_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    for order in (0, 7):
        with pytest.raises(ConfigError, match=f"order {order} is not supported; choose 1 to 6"):
            NGrams.train(WORDS, order)
    with pytest.raises(ConfigError, match="no words"):
        NGrams.train({}, 2)
    with pytest.raises(ConfigError, match="invisible character"):
        NGrams.train({"a\x02": 1.0}, 2)
    ngrams = NGrams.train(WORDS, 3)
    with pytest.raises(ConfigError, match="none of the model's characters"):
        LanguageModel.create(ngrams, Alphabet("xyz"))
    monkeypatch.setattr(language_model, "MAX_CELLS", 20)
    with pytest.raises(ConfigError, match=r"contexts for 4 characters.*an order below 3"):
        LanguageModel.create(ngrams, Alphabet("ab"))


def test_the_command_writes_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words, output = tmp_path / "words.txt", tmp_path / "words.arpa"
    words.write_text("ab\nb\t2\n")
    flags = [f"--words={words}", f"--output={output}", "--order=2"]

    def run(*arguments: str) -> None:
        with flagsaver.flagsaver():
            saved = flagsaver.save_flag_values(command.FLAGS)
            try:
                command.main(parse_flags(command.FLAGS, ["language-model", *arguments]))
            finally:
                flagsaver.restore_flag_values(saved, command.FLAGS)

    run(*flags)
    assert capsys.readouterr().out == f"{output}: 9 n-grams of 2 words\n"
    alphabet = Alphabet("ab")
    model = LanguageModel.create(read_language_model(output), alphabet)
    trained = LanguageModel.create(NGrams.train(WORDS, 2), alphabet)
    np.testing.assert_allclose(
        model.log_probabilities[:, 1:], trained.log_probabilities[:, 1:], 1e-5
    )
    for arguments in ([], flags[:1], [*flags, "more"]):
        with pytest.raises(ConfigError, match="--words"):
            run(*arguments)
    words.write_text("")
    with pytest.raises(ConfigError, match="has no words"):
        run(*flags)
    output.write_bytes(b"\\data\\\n\xff")
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        read_language_model(output)
