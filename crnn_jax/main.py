"""Trains a text recognizer, or evaluates one.

    python -m crnn_jax.main --config configs/captcha.py

trains with a recipe. The same command, called again, continues from the newest checkpoint.

    python -m crnn_jax.main --workdir runs/captcha --mode eval

evaluates the best checkpoint on the test images of the data that it was trained with, or of other
data that --config.data.KEY=VALUE names. The last line of standard output is JSON.

`crnn-jax train` and `crnn-jax eval` do the same.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from crnn_jax.commands import define_config, define_decoding, override, print_result, run
from crnn_jax.errors import ConfigError
from crnn_jax.recipes import DEFAULT, get_config

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder of the run; by default runs/NAME of the config.", flag_values=FLAGS
)
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "Train (or continue), or evaluate.", flag_values=FLAGS
)
STEP = flags.DEFINE_integer(
    "step", None, "The checkpoint to evaluate; by default the best one.", flag_values=FLAGS
)
SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Images to evaluate on.", flag_values=FLAGS
)
REPORT = flags.DEFINE_string(
    "report", None, "The folder of the report; by default that of the run.", flag_values=FLAGS
)
DECODING = define_decoding(FLAGS)


def main(arguments: Sequence[str]) -> None:
    """Trains or evaluates; raises ConfigError if neither a config nor a workdir is named."""
    training = MODE.value == "train"
    if not CONFIG.value and (training or not WORKDIR.value):
        wanted = "a recipe, such as --config captcha" if training else "a run with --workdir"
        raise ConfigError(f"name {wanted}; --help shows all flags")
    name = Path(CONFIG.value or "").name.replace(".py", "").replace(":", "_")
    workdir = Path(WORKDIR.value or Path("runs") / name)
    if training:
        from crnn_jax.train import train_and_evaluate

        config = get_config(CONFIG.value)
        override(config, arguments)
        train_and_evaluate(config, workdir)
    else:
        from crnn_jax.recognition.trained_model import BEST, TrainedModel
        from crnn_jax.reports.writing import report_folder
        from crnn_jax.run_data import config_of
        from crnn_jax.scoring import evaluate_model

        model = TrainedModel.load(workdir, BEST if STEP.value is None else STEP.value)
        overridden = bool(arguments[1:])
        config = config_of(model, CONFIG.value if overridden and CONFIG.value else DEFAULT)
        if overridden:
            if any("config.data.source" in argument for argument in arguments):
                config.data.dir = ""  # the folder of the run is that of its own source
            override(config, arguments)
        report = report_folder(workdir, REPORT.value)
        metrics = evaluate_model(model, config, SPLIT.value, report=report, **DECODING())
        print_result(json.dumps(metrics, allow_nan=False))


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
