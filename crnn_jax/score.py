"""Scores a trained model on labeled sets, in one table, as scene-text benchmarks are scored.

    python -m crnn_jax.score --model runs/scene_text DIR...

The model is a workdir, or a pretrained one by its name; a DIR is a folder of images or an LMDB
database. Its test split counts, or all of it if it has none, with whatever cannot be read or
written as wrong.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from crnn_jax.commands import parse_flags, print_result, run_command

MODEL = flags.DEFINE_string(
    "model", None, "A workdir, or the name of a pretrained model.", required=True
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images read together.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Prints JSON, with all metrics.")

COLUMNS = {
    "exact_match": "exact",
    "exact_match_caseless": "caseless",
    "exact_match_alphanumeric": "36 characters",
    "cer": "CER",
}


def main(arguments: Sequence[str]) -> None:
    """Scores the sets named on the command line."""
    from crnn_jax.errors import DataError
    from crnn_jax.evaluate import score

    if not arguments[1:]:
        raise DataError("name the folders or databases to score the model on")
    rows = score(MODEL.value, list(map(Path, arguments[1:])), BATCH_SIZE.value)
    if JSON.value:
        print_result(json.dumps(rows, allow_nan=False))
        return
    table = [["set", "labels", "images", *COLUMNS.values()]]
    for row in rows:
        metrics = [f"{100 * row[key]:.2f} %" for key in COLUMNS]
        table.append([row["set"], row["labels"], f"{row['count']:,}", *metrics])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        names, numbers = zip(line[:2], widths[:2], strict=True), zip(line, widths, strict=True)
        cells = [f"{text:<{width}}" for text, width in names]
        cells += [f"{text:>{width}}" for text, width in list(numbers)[2:]]
        print_result("  ".join(cells))


if __name__ == "__main__":
    app.run(run_command(main), flags_parser=parse_flags)
