"""N-grams of characters: counted in words, and as lines of an ARPA file.

An n-gram is a string. The characters `BEGIN`, `END` and `UNKNOWN` in it are what ARPA files call
<s>, </s> and <unk>.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import may_belong

# Control characters, which no alphabet has.
BEGIN, END, UNKNOWN = "\x02", "\x03", "\x1a"
NAMES = {"<s>": BEGIN, "</s>": END, "<unk>": UNKNOWN, "<space>": " "}
OTHER_NAMES = {"<UNK>": UNKNOWN, "\u2581": " "}

MAX_ORDER = 6
"""The highest order of a model that is trained."""

LOG_ZERO = -99.0
"""How ARPA files write the logarithm of 0."""


@dataclass(frozen=True, eq=False)
class NGrams:
    """A backoff model: logarithms to base 10, as in an ARPA file.

    The probability of a character after a context is that of their n-gram. If the model lacks it,
    it is the probability after the context without its first character, times the backoff weight of
    the context (Katz 1987).

    Attributes:
      order: the number of characters of the longest n-grams.
      log_probabilities: of the last character of each n-gram, given the others.
      backoffs: the weights of contexts; 0 of those that are not listed.
    """

    order: int
    log_probabilities: dict[str, float]
    backoffs: dict[str, float]

    @classmethod
    def train(cls, words: Mapping[str, float], order: int) -> Self:
        """Estimates a model from words and how often each occurs.

        The method is interpolated Witten-Bell smoothing (Chen & Goodman 1999, section 2.4). After a
        context that was seen c times, with t distinct characters, the share t / (c + t) of the
        probability is that of the shorter context. Discounts of Kneser and Ney are estimated from
        n-grams that occur once, and there are none of single characters. The last resort is that
        all characters of the words, the end and <unk> are equally likely.

        Raises:
          ConfigError: the order is not supported, or there are no words.
        """
        if not 1 <= order <= MAX_ORDER:
            raise ConfigError(f"the order {order} is not supported; choose 1 to {MAX_ORDER}")
        followers: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for word, count in words.items():
            if not all(map(may_belong, word)):
                raise ConfigError(f"the word {word!r} has an invisible character; remove it")
            text = BEGIN + word + END
            for place in range(1, len(text)):
                for start in range(max(0, place - order + 1), place + 1):
                    followers[text[start:place]][text[place]] += count
        if not followers:
            raise ConfigError("there are no words to train a language model with; add words")
        uniform = 1 / (len(followers[""]) + 1)
        probabilities: dict[str, float] = {}
        backoffs: dict[str, float] = {}
        for context in sorted(followers, key=len):
            counts = followers[context]
            total = sum(counts.values()) + len(counts)
            weight = len(counts) / total
            backoffs[context] = weight
            for character, count in counts.items():
                shorter = probabilities[context[1:] + character] if context else uniform
                probabilities[context + character] = count / total + weight * shorter
        probabilities[UNKNOWN] = backoffs.pop("") * uniform
        logarithms = {ngram: math.log10(p) for ngram, p in probabilities.items()}
        logarithms[BEGIN] = LOG_ZERO
        return cls(order, logarithms, {context: math.log10(w) for context, w in backoffs.items()})

    def to_arpa(self) -> Iterator[str]:
        """Yields the lines of an ARPA file."""
        names = {character: name for name, character in NAMES.items()}
        levels: list[list[str]] = [[] for _ in range(self.order)]
        for ngram in sorted(self.log_probabilities):
            levels[len(ngram) - 1].append(ngram)
        yield "\\data\\"
        yield from (f"ngram {n}={len(ngrams)}" for n, ngrams in enumerate(levels, 1))
        for n, ngrams in enumerate(levels, 1):
            yield ""
            yield f"\\{n}-grams:"
            for ngram in ngrams:
                tokens = " ".join(names.get(character, character) for character in ngram)
                line = f"{self.log_probabilities[ngram]:.7g}\t{tokens}"
                yield f"{line}\t{self.backoffs[ngram]:.7g}" if ngram in self.backoffs else line
        yield ""
        yield "\\end\\"

    @classmethod
    def from_arpa(cls, lines: Iterable[str]) -> Self:
        """Reads the lines of an ARPA file whose tokens are characters.

        A space is the token `<space>` or U+2581. Characters are NFC-normalized.

        Raises:
          ConfigError: it is no such file, or it is damaged.
        """
        expected: dict[int, int] = {}
        found: Counter[int] = Counter()
        probabilities: dict[str, float] = {}
        backoffs: dict[str, float] = {}
        section = None  # None before \data\, 0 in it, n among the n-grams
        for place, line in enumerate(lines, 1):
            line = line.strip(" \t\r\n")
            if line == "\\data\\":
                section = 0
            elif section is None or not line:
                continue  # files may begin with comments
            elif line == "\\end\\":
                break
            elif line.startswith("\\"):
                section = _number(line.removeprefix("\\").removesuffix("-grams:"), place)
                if section not in expected:
                    raise _damaged(place, f"{line!r} is not announced in \\data\\")
            elif section == 0:
                name, _, count = line.partition("=")
                order = _number(name.removeprefix("ngram"), place)
                expected[order] = _number(count, place)
            else:
                ngram, log_probability, backoff = _entry(line, section, place)
                if ngram in probabilities:
                    raise _damaged(place, f"{line!r} is listed twice")
                found[section] += 1
                probabilities[ngram] = log_probability
                if backoff:
                    backoffs[ngram] = backoff
        else:
            raise ConfigError("the ARPA file is damaged: it has no \\end\\; copy it again")
        order = len(expected)
        if sorted(expected) != list(range(1, order + 1)) or not order:
            raise _damaged(place, "its orders are not 1, 2 and so on")
        if wrong := [n for n in expected if found[n] != expected[n]]:
            n = wrong[0]
            raise _damaged(place, f"it has {found[n]} {n}-grams, and announces {expected[n]}")
        return cls(order, probabilities, backoffs)


def _entry(line: str, order: int, place: int) -> tuple[str, float, float]:
    """The n-gram of a line, its log probability and its backoff weight."""
    # Other white space may be a character.
    fields = [field for field in line.replace("\t", " ").split(" ") if field]
    if len(fields) not in (order + 1, order + 2):
        raise _damaged(place, f"{line!r} is not a probability, {order} characters and a weight")
    characters = [_character(token, place) for token in fields[1 : order + 1]]
    try:
        numbers = [float(field) for field in (fields[0], *fields[order + 1 :])]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)) or numbers[0] > 1e-4:  # rounding may exceed 0
        raise _damaged(place, f"{line!r} has no logarithm of a probability")
    return "".join(characters), min(numbers[0], 0.0), sum(numbers[1:])


def _character(token: str, place: int) -> str:
    character = NAMES.get(token) or OTHER_NAMES.get(token) or unicodedata.normalize("NFC", token)
    if len(character) != 1:
        raise ConfigError(
            f"the ARPA file has the token {token!r} in line {place}, but a model of characters is"
            " needed; separate the characters of its training texts by spaces"
        )
    return character


def _number(text: str, place: int) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise _damaged(place, f"{text!r} is no number")
    return int(text)


def _damaged(place: int, problem: str) -> ConfigError:
    return ConfigError(f"the ARPA file is damaged: line {place}: {problem}; copy or write it again")
