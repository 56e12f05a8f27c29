"""Scores a trained model on labeled sets in one table, as scene-text benchmarks are scored.

    python -m crnn_jax.score --model runs/scene_text DIR...

A DIR is a folder of images or an LMDB database. Its test split counts, or all of it if it has
none. Images that cannot be read and characters that the model does not know count as wrong.

The columns: `exact` is the share of texts that are right as they are written, `caseless` without
regard to case, `36 characters` in their digits and letters alone, without regard to case. `CER` and
`caseless CER` are the edits per character of the labels.

--alphabet, --length and --caseless say what is known of the texts, as for predict.

`crnn-jax score` does the same.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from crnn_jax.commands import define_decoding, define_model, print_result, run
from crnn_jax.errors import DataError
from crnn_jax.messages import escape

FLAGS = flags.FlagValues()
MODEL = define_model(FLAGS)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "The number of images read together.", lower_bound=1, flag_values=FLAGS
)
DECODING = define_decoding(FLAGS)
REPORT = flags.DEFINE_string(
    "report", None, "Writes a report of each set into a folder in this one.", flag_values=FLAGS
)
JSON = flags.DEFINE_bool("json", False, "Prints JSON, with all metrics.", flag_values=FLAGS)

COLUMNS = {
    "exact_match": "exact",
    "cer": "CER",
    "exact_match_caseless": "caseless",
    "cer_caseless": "caseless CER",
    "exact_match_alphanumeric": "36 characters",
}


def main(arguments: Sequence[str]) -> None:
    """Scores the sets named on the command line.

    Raises:
      DataError: no set is named, or one is missing or cannot be understood.
    """
    directories, options = list(map(Path, arguments[1:])), DECODING()
    if not directories:
        raise DataError("name the folders or databases to score the model on")
    from crnn_jax.data.sources.paths import require_folder

    for directory in directories:  # before anything is read, as reading takes minutes
        require_folder(directory)

    from crnn_jax.scoring import score

    rows: list[dict[str, Any]] = []
    try:
        report = Path(REPORT.value) if REPORT.value else None
        rows.extend(score(MODEL.value, directories, BATCH_SIZE.value, report=report, **options))
    finally:  # an error in one set does not lose the rows of the sets before it
        if rows:
            print_result(json.dumps(rows, allow_nan=False) if JSON.value else _table(rows))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, in columns; names of sets are broken where the terminal is too narrow."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("set", "subset", box=None, pad_edge=False)
    for heading in ("images", *COLUMNS.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        metrics = (f"{100 * row[key]:.2f} %" for key in COLUMNS)
        table.add_row(Text(escape(row["set"])), row["subset"], f"{row['count']:,}", *metrics)
    # Only a terminal breaks long names. No colors, even if the environment asks for them.
    console = Console(force_terminal=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
