"""Command lines, as a program that passes a stranger's words on would write them."""

import contextlib
import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from crnn_jax.errors import DataError
from fuzzing.damage import Draw
from fuzzing.images import IMAGE, ROOT
from fuzzing.models import CHECKPOINT


def create_command(folder: Path) -> None:
    """Writes a command line that works."""
    write_command(folder, ["predict", str(IMAGE)])


def write_command(folder: Path, arguments: list[str]) -> None:
    """Writes the arguments of a command line as JSON."""
    text = json.dumps(arguments)
    (folder / "arguments.json").write_text(text, encoding="utf-8")


def damage_command(draw: Draw, folder: Path) -> None:
    """Writes a command with flags and values that do not belong together."""
    from crnn_jax.cli import COMMANDS
    from crnn_jax.recipes import get_config, settings_of

    names = sorted(settings_of(get_config("captcha")))
    keys = st.sampled_from(names).map(lambda name: f"config.{name}") | st.sampled_from(
        (
            "config",
            "workdir",
            "model",
            "batch_size",
            "json",
            "step",
            "split",
            "dir",
            "x",
            "",
            "config.",
        )
    )
    values = st.sampled_from(ARGUMENTS) | st.text(max_size=10)
    flags = st.builds("{}{}={}".format, st.sampled_from(("--", "-", "--no")), keys, values)
    arguments = st.lists(flags | values | keys.map("--{}".format), max_size=5)
    write_command(folder, [draw(st.sampled_from(sorted(COMMANDS))), *draw(arguments)])


ARGUMENTS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "7",
        "1e999",
        "nan",
        "0.5",
        "1e-9",
        "99999999999999999999",
        "None",
        "True",
    ),
    *("", "()", "(1,)", "(0.5,0.6)", "('a','b')", "[1", "{}", "\0", "=", "--", "-", "a" * 3000),
    *("__import__('os')", "captcha", "captcha:quick", "captcha:x", "/etc/passwd", "/dev/zero", "."),
    *("folder", "lmdb", "parquet", "train", "test", "\ud800", "\u202e", "~", "*", "a" * 300),
    *(str(IMAGE), str(IMAGE.parent.parent), str(CHECKPOINT), str(ROOT / "configs" / "tiny.py")),
)


def read_command(folder: Path) -> None:
    """Runs a command up to where it would train or evaluate."""
    from absl.testing import flagsaver

    from crnn_jax import cli

    modules = [importlib.import_module(f"crnn_jax.{name}") for name, *_ in cli.COMMANDS.values()]
    all_flags = [module.FLAGS for module in modules]
    arguments = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    saved = [flagsaver.save_flag_values(values) for values in all_flags]
    try:
        with contextlib.chdir(folder), only_configured():
            cli.main(["crnn-jax", *arguments])
    except SystemExit as end:
        if end.code:
            raise DataError(f"the command ends with code {end.code}") from end
    finally:
        logging.getLogger("crnn_jax").handlers.clear()  # each start adds one
        for values, state in zip(all_flags, saved, strict=True):
            flagsaver.restore_flag_values(state, values)


@contextlib.contextmanager
def only_configured() -> Iterator[None]:
    """A context in which training, evaluation and data checks end after checking their config."""
    from crnn_jax import dataset, evaluation, train

    def stop(config: Any, *_: object) -> None:
        build(config)
        raise DataError("a command is tried up to here")

    with (
        mock.patch.object(train, "train_and_evaluate", stop),
        mock.patch.object(evaluation, "evaluate_model", lambda _, config, *__: stop(config)),
        mock.patch.object(dataset, "check_dataset", stop),
    ):
        yield


def build(config: Any) -> None:
    """Builds what a run builds before it reads images, and an initial state without values."""
    import jax
    import jax.numpy as jnp

    from crnn_jax import models
    from crnn_jax.config import check_config
    from crnn_jax.data.augment import Augmentation
    from crnn_jax.dataset import config_preprocessing
    from crnn_jax.training.state import learning_rate_schedule, make_optimizer

    check_config(config)
    Augmentation.from_config(config.augment)
    preprocessing = config_preprocessing(config)
    settings = config.model.to_dict()
    model = models.create(settings.pop("name"), 11, settings)
    schedule = learning_rate_schedule(config.optimizer, 100)
    optimizer = make_optimizer(schedule, config.optimizer.clip_norm, config.freeze != "")
    images = jnp.zeros((1, preprocessing.height, 32, preprocessing.channels), jnp.uint8)

    def start() -> Any:
        variables: Any = model.init(jax.random.key(config.seed), images, jnp.array([32]))
        return optimizer.init(variables["params"]), schedule(jnp.array(7))

    jax.eval_shape(start)
