"""Shapes of texts: a regular expression becomes an automaton over a model's characters."""

import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import interegular
import numpy as np
from interegular.patterns import REFlags

from crnn_jax.errors import ConfigError
from crnn_jax.text.alphabet import BLANK, Alphabet
from crnn_jax.text.constraints import Automaton

MAX_CHARACTERS = 200
"""The longest shape."""

MAX_STATES = 256
"""The most states of a shape. Decoding takes memory for each of them."""

MAX_CALLS = 100_000
"""How much work a shape may be, in Python's calls and returns; below a second."""

_LOOKAROUNDS = ("(?=", "(?!", "(?<=", "(?<!")


def automaton_of(shape: str, alphabet: Alphabet, ignore_case: bool = False) -> Automaton:
    """Returns the minimal automaton of the texts that a shape describes from start to end.

    The time is limited, whatever the shape is: some of 20 characters have a million states.

    Args:
        shape: a regular expression as those of Python's `re`, such as `[A-Z]{3}-[0-9]{4}`. A dot is
            any character of the model; `\\\\d` is 0 to 9. It has no `^`, `$`, `\\\\b`,
            back-references or lookarounds.
        alphabet: that of the model. Characters of the shape that it lacks never occur.
        ignore_case: whether a letter means both of its cases; always for an alphabet that ignores
            case.

    Raises:
        ConfigError: the shape cannot be understood or is too large, or the model cannot write any
            text of this shape.
    """
    if len(shape) > MAX_CHARACTERS:
        raise ConfigError(
            f"a shape of {len(shape)} characters is too long; at most {MAX_CHARACTERS} are read"
        )
    flags = REFlags.CASE_INSENSITIVE if ignore_case or alphabet.ignore_case else REFlags(0)
    too_large = ConfigError(
        f"the shape {shape!r} is too large; write shorter repetitions, such as {{1,8}} for *"
    )
    try:
        re.compile(shape)  # its messages are better
        if any(part in shape for part in _LOOKAROUNDS):
            raise interegular.Unsupported("lookarounds are not implemented")
        with _limited_calls(too_large):
            pattern = interegular.parse_pattern(unicodedata.normalize("NFC", shape))
            machine = pattern.to_fsm(flags=flags)
    except (re.error, interegular.InvalidSyntax, interegular.Unsupported, ValueError) as error:
        raise ConfigError(
            f"the shape {shape!r} cannot be understood ({str(error) or 'it is not finished'});"
            " write a regular expression of the whole text, such as [A-Z]{3}-[0-9]{4}, without ^,"
            " $, \\b, \\1 and lookarounds"
        ) from error
    except (RecursionError, OverflowError, MemoryError):
        raise too_large from None
    order = [machine.initial, *(state for state in machine.states if state != machine.initial)]
    number = {state: place for place, state in enumerate(order)}
    following = np.full((len(order), alphabet.num_classes), -1, np.int32)
    for own, character in enumerate(alphabet.characters, BLANK + 1):
        symbol = machine.alphabet[character]
        for state, targets in machine.map.items():
            if symbol is not None and symbol in targets:
                following[number[state], own] = number[targets[symbol]]
    automaton = Automaton(following, np.array([state in machine.finals for state in order]))
    automaton = automaton.minimal()
    if not automaton.accepting.any():
        raise ConfigError(
            f"no text of the model's characters has the shape {shape!r}; check its characters"
        )
    if len(automaton.accepting) > MAX_STATES:
        raise too_large
    return automaton


@contextmanager
def _limited_calls(error: Exception) -> Iterator[None]:
    """Raises an error when a block has made `MAX_CALLS` calls.

    The library has no limit of its own, and a thread cannot be stopped. Nothing is limited while
    the block is profiled.
    """
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > MAX_CALLS:
            raise error

    if sys.getprofile() is not None:
        yield
        return
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
