"""Writes a trained model in the form of another program, and proves that it reads the same.

    python -m crnn_jax.export --model runs/captcha --format onnx --out captcha_onnx

The folder has the model, a program of a few lines that reads images with it and without crnn_jax,
and a README. The model takes images of any size as they are; resizing, normalizing and decoding are
inside.

Before the folder gets its name, its model reads the test images of the run, or those of --images,
and the same in gray, transparent, tiny and wide. If a text differs from what JAX reads, or a number
by more than the format allows, nothing is left of it. proof.json in the folder says what was
compared. For a pretrained model without --images, captchas are drawn.

`crnn-jax export` does the same.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from crnn_jax.commands import define_model, print_result, run
from crnn_jax.errors import ConfigError

FLAGS = flags.FlagValues()
MODEL = define_model(FLAGS)
FORMAT = flags.DEFINE_string(
    "format",
    None,
    "onnx, onnx-int8, stablehlo, safetensors, torch or web.",
    flag_values=FLAGS,
)
OUT = flags.DEFINE_string("out", None, "The folder to write; it must not exist.", flag_values=FLAGS)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "A folder of images or an LMDB database to test with; by default the run's test images.",
    flag_values=FLAGS,
)


def main(arguments: Sequence[str]) -> None:
    """Exports the model that the flags name, and prints what was compared.

    Raises:
      ConfigError, CheckpointError, DataError, ExportFailed: see `exporting.writing.export`.
    """
    if arguments[1:]:
        raise ConfigError(f"what is {arguments[1]!r}? name the model with --model; see --help")
    if FORMAT.value is None or OUT.value is None:
        raise ConfigError("name a format and a folder, such as --format onnx --out captcha_onnx")
    from crnn_jax.exporting.writing import export
    from crnn_jax.training.interrupt import StopRequest

    images = Path(IMAGES.value) if IMAGES.value else None
    with StopRequest() as stop:
        stop.then = _interrupt
        try:
            proof = export(MODEL.value, FORMAT.value, Path(OUT.value), images, _say)
        except KeyboardInterrupt:
            stop.deliver()
            raise
    print_result(_table(proof))
    print_result(f"\n{OUT.value}: {proof['bytes'] / 1e6:.1f} MB")


def _interrupt() -> None:
    raise KeyboardInterrupt  # so that what is written by half is removed


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be closed
        print(line, file=sys.stderr)


def _table(proof: Mapping[str, Any]) -> str:
    """What was compared, as text in columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table("compared with JAX", box=None, pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    compared = proof["images"]["compared"]
    table.add_row("images", f"{sum(compared.values()):,}")
    for kind, count in compared.items():
        table.add_row(f"  {kind}", f"{count:,}")
    table.add_row("equal texts", f"{proof['equal_texts']:,} of {proof['texts']:,}")
    for name, difference in proof["largest_difference"].items():
        what = name.replace("logits_relative", "logits / largest logit")
        table.add_row(f"largest difference of {what}", f"{difference:.1e}")
    if match := proof["exact_match"]:
        few = " (too few to measure)" if match["images"] < proof["measured_from"] else ""
        table.add_row(f"labels{few}", f"{match['images']:,}")
        for reader in ("jax", "exported"):
            table.add_row(f"  exact match, {reader}", f"{match[reader]:.2%}")
    # No colors, even if the environment asks for them.
    console = Console(force_terminal=False, width=10_000)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
