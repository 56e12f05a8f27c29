"""How far the confidence of a model can be trusted, before and after calibration.

    python scripts/calibration.py captcha DATA/captcha_keras_v2 DATA/captcha_sysu_cas

prints for each set the share of right texts; the expected calibration error (15 bins of equal
width) of three confidences: the probability of the most likely path, which versions before 0.3
reported, the probability of the text, and the calibrated one; the error that a perfect confidence
would have on so few texts by chance; and what is left of the set at `min_confidence`. The second
table is the abstain curve: how many of the most confident texts are wrong. Test images are read
unless --split says otherwise.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from crnn_jax.data.buckets import choose_buckets
from crnn_jax.dataset import load_benchmark
from crnn_jax.decoding.options import make_decoder
from crnn_jax.errors import CrnnError
from crnn_jax.evaluation import Evaluation, evaluate_split, make_eval_step
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.scoring import SCORE_BUCKETS
from crnn_jax.text.constraints import parse_length
from crnn_jax.text.reliability import (
    brier_score,
    chance_calibration_error,
    expected_calibration_error,
    risk_coverage,
)
from crnn_jax.training import parallel

BATCH_SIZE = 32
SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)  # of the texts, that are kept


def reliability_row(name: str, read: Evaluation) -> list[str]:
    """A row of the first table."""
    kinds = (read.path_probabilities, read.probabilities, read.confidences)
    least = read.calibration.min_confidence
    kept = read.right[read.confidences >= (2 if least is None else least)]
    return [
        *(name, f"{len(read.right):,}", f"{100 * read.right.mean():.1f} %"),
        *(f"{expected_calibration_error(values, read.right):.3f}" for values in kinds),
        f"{chance_calibration_error(read.confidences):.3f}",
        *(f"{brier_score(values, read.right):.3f}" for values in (kinds[0], kinds[-1])),
        f"{100 * len(kept) / len(read.right):.1f} %",
        f"{100 * kept.mean():.1f} %" if len(kept) else "-",
    ]


def abstain_row(name: str, read: Evaluation) -> list[str]:
    """The share of wrong texts among the most confident ones, for each of `SHARES`."""
    kept, wrong = risk_coverage(read.confidences, read.right)
    places = [np.searchsorted(kept, share - 1e-9) for share in SHARES]
    return [name, *(f"{100 * wrong[place]:.1f} %" for place in places)]


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints rows below their headings."""
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def main() -> None:
    """Prints the tables of the sets that the command line names."""
    parser = argparse.ArgumentParser(description="Measures how far confidences can be trusted.")
    parser.add_argument("model", help="a workdir, or the name of a pretrained model")
    parser.add_argument("directory", type=Path, nargs="+", help="labeled images")
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--alphabet", help="what is known of the texts, as for predict")
    parser.add_argument("--length", type=parse_length)
    parser.add_argument("--caseless", action="store_true")
    arguments = parser.parse_args()
    options: Any = {key: getattr(arguments, key) for key in ("alphabet", "length", "caseless")}
    found: list[tuple[str, Evaluation]] = []
    try:
        model = TrainedModel.load(arguments.model)
        step = make_eval_step(
            model.network, None, make_decoder(model.alphabet, model.charsets, **options)
        )
        variables = parallel.replicate(model.variables)
        for directory in arguments.directory:
            data = load_benchmark(
                *(directory, model.alphabet, model.preprocessing, model.architecture.time_steps),
                arguments.split,
            )
            buckets = choose_buckets(data.widths, SCORE_BUCKETS)
            read = evaluate_split(
                *(step, variables, data, model.alphabet, buckets, BATCH_SIZE),
                calibration=model.calibration,
            )
            found.append((directory.name, read))
    except CrnnError as error:
        sys.exit(f"error: {error}")
    errors = ["ECE path", "ECE text", "ECE calibrated", "by chance"]
    print_table(
        f"Reliability, min_confidence {model.calibration.min_confidence}",
        ["set", "images", "right", *errors, "Brier path", "Brier", "accepted", "right of these"],
        [reliability_row(*one) for one in found],
    )
    print_table(
        "Wrong among the most confident texts",
        ["set", *(f"{100 * share:.0f} %" for share in SHARES)],
        [abstain_row(*one) for one in found],
    )


if __name__ == "__main__":
    main()
