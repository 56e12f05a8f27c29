"""Trains and evaluates text recognizers.

python -m crnn_jax.main --config configs/captcha.py
python -m crnn_jax.main --config configs/captcha.py --mode eval
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from crnn_jax.commands import parse_flags, print_result, run_command

CONFIG = config_flags.DEFINE_config_file("config", help_string="The recipe.", lock_config=True)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and metrics go; by default runs/<name of the config>."
)
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train (and go on), or evaluate.")
flags.mark_flag_as_required("config")


def main(arguments: Sequence[str]) -> None:
    """Trains, or evaluates what was saved; the last line of standard output is JSON."""
    del arguments
    config_file = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    name = config_file.name.replace(".py", "").replace(":", "_")
    workdir = Path(WORKDIR.value or Path("runs") / name)
    if MODE.value == "train":
        from crnn_jax.train import train_and_evaluate

        train_and_evaluate(CONFIG.value, workdir)
    else:
        from crnn_jax.evaluate import evaluate_workdir

        print_result(json.dumps(evaluate_workdir(CONFIG.value, workdir), allow_nan=False))


if __name__ == "__main__":
    app.run(run_command(main), flags_parser=parse_flags)
