"""Trains a language model of characters from a list of words.

    python -m crnn_jax.language_model --words words.txt --order 5 --output words.arpa

The words are lines of a UTF-8 file. A tab and how often the word occurs may follow. The output is
a file in the ARPA format, whose tokens are characters. Write the words as the model reads them: in
lower case if it reads in lower case.

`crnn-jax language-model` does the same.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from crnn_jax.commands import print_result, run
from crnn_jax.errors import ConfigError

FLAGS = flags.FlagValues()
WORDS = flags.DEFINE_string(
    "words",
    None,
    "A file of words: UTF-8, one a line, or a word, a tab and its count.",
    flag_values=FLAGS,
)
ORDER = flags.DEFINE_integer(
    "order", 5, "The number of characters of the longest n-grams, 1 to 6.", flag_values=FLAGS
)
OUTPUT = flags.DEFINE_string("output", None, "The ARPA file to write.", flag_values=FLAGS)


def main(arguments: Sequence[str]) -> None:
    """Writes the ARPA file, and prints how many n-grams it has.

    Raises:
      ConfigError: a flag is missing, or a file cannot be used.
    """
    if arguments[1:]:
        raise ConfigError(f"what is {arguments[1]!r}? words are named with --words")
    if not WORDS.value or not OUTPUT.value:
        raise ConfigError("name the words and the file to write: --words FILE --output FILE.arpa")

    from crnn_jax.recognition.word_files import read_words
    from crnn_jax.text.ngrams import NGrams

    words = read_words(WORDS.value)
    ngrams = NGrams.train(words, ORDER.value)
    with Path(OUTPUT.value).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in ngrams.to_arpa())
    count = len(ngrams.log_probabilities)
    print_result(f"{OUTPUT.value}: {count:,} n-grams of {len(words):,} words")


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
