"""Text from strangers in messages: on one line, visible, and of limited length."""

import unicodedata

MAX_LENGTH = 2_000
"""Characters of a message; a config with many problems names them all."""

_TAIL = 500  # characters at the end of a message, where the remedy is
# Control characters, those that change the order of the text around them (format), line and
# paragraph separators. Surrogates stay: they stand for the bytes of a name that is not UTF-8.
_ESCAPED = ("Cc", "Cf", "Zl", "Zp")


def escape(text: str) -> str:
    """Returns `text` with a Python escape such as `\\n` for each character that is not visible.

    A name with a newline could otherwise add a line to a result, and ESC could rewrite a terminal.
    """
    if text.isprintable():  # most are, and it is fast
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _ESCAPED else char
        for char in text
    )


def one_line(text: str) -> str:
    """Returns a message on one line, without its middle if it is longer than `MAX_LENGTH`."""
    text = " ".join(text.splitlines())
    if len(text) > MAX_LENGTH:
        text = f"{text[: MAX_LENGTH - _TAIL]} [...] {text[-_TAIL:]}"
    return escape(text)
