"""Command lines, as a program that passes a stranger's words on would write them."""

import contextlib
import importlib
import io
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
    """Writes a command with flags and values, of which most could belong together."""
    command = draw(st.sampled_from(sorted(FLAGS)))
    flags = [draw(st.sampled_from(FLAGS[command]))]
    if command in ("train", "eval", "check-data"):
        flags += draw(st.lists(overrides(), max_size=2))
    if not draw(st.integers(0, 3)):
        odd = st.sampled_from(ODD) | st.text(max_size=10)
        place = draw(st.integers(0, len(flags)))
        before = draw(st.sampled_from(("", "--", "--model=", "--workdir=", "--config.", "--json=")))
        flags[place : place + draw(st.integers(0, 1))] = [before + draw(odd)]
    write_command(folder, [command, *flags])


def overrides() -> st.SearchStrategy[str]:
    """Overrides of the default recipe's settings, most of them by values of the same type."""
    from crnn_jax.recipes import get_config, settings_of

    def of_setting(setting: tuple[str, Any]) -> st.SearchStrategy[str]:
        name, value = setting
        alike = st.sampled_from(VALUES.get(type(value), ODD))
        return st.one_of(alike, alike, st.sampled_from(ODD)).map(f"--config.{name}={{}}".format)

    return st.sampled_from(sorted(settings_of(get_config("captcha")).items())).flatmap(of_setting)


FLAGS = {
    "train": ("--config=captcha", "--config=captcha:quick", f"--config={ROOT}/configs/tiny.py"),
    "eval": (f"--workdir={CHECKPOINT}", "--workdir=captcha", "--workdir=/dev"),
    "predict": (
        str(IMAGE),
        "--model=captcha",
        f"--model={CHECKPOINT}",
        "--batch_size=3",
        "--length=5",
        str(IMAGE.parent),
        f"{IMAGE.parent}/**/0000?.*",
        "--format=csv",
        "--output=out.jsonl",
        "--resume",
        f"--labels={IMAGE.parent.parent / 'test.tsv'}",
    ),
    "score": (str(IMAGE.parent.parent), str(IMAGE), "/dev", "--json", "--alphabet=a"),
    "check-data": ("--config=captcha", f"--dir={IMAGE.parent.parent}", "--dir=.", "--json"),
}
VALUES = {
    bool: ("true", "false", "1", "0", "yes"),
    int: ("0", "-1", "1", "2", "7", "32", "64", "100000", "99999999999999999999"),
    float: ("0", "-1", "0.5", "1e-9", "1", "1e999", "nan", "3"),
    str: ("", "folder", "lmdb", "parquet", "tfds", "mixture", "crnn", "none", "../x", "/etc"),
    tuple: ("()", "(1,)", "(0.5,0.6)", "(0.1,0.05)", "('a','b')", "(32,64)"),
}
ODD = (
    *(
        "None",
        "()",
        "[1",
        "{}",
        "\0",
        "=",
        "--",
        "-",
        "a" * 300,
        "a" * 3000,
        "~",
        "*",
        "-1",
        "1e999",
    ),
    *("__import__('os')", "captcha:x", "/etc/passwd", "/dev/zero", ".", "\ud800", "\u202e", "\n"),
    *(
        str(IMAGE),
        str(IMAGE.parent.parent),
        str(CHECKPOINT),
        "help",
        "version",
        "flagfile=/dev/zero",
    ),
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
        paths = io.StringIO(f"{IMAGE}\nno.png\n")  # for the argument -
        with contextlib.chdir(folder), only_configured(), mock.patch("sys.stdin", paths):
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
        raise SystemExit

    with (
        mock.patch.object(train, "train_and_evaluate", stop),
        mock.patch.object(evaluation, "evaluate_model", lambda _, config, *__, **___: stop(config)),
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
