"""Tests of the recipes in configs/ and of what is refused in them."""

import contextlib
import importlib
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from networks import jit

from configs import captcha, scene_text
from crnn_jax import models
from crnn_jax.commands import override
from crnn_jax.config import check_config
from crnn_jax.data.sources import parts_of
from crnn_jax.errors import ConfigError
from crnn_jax.experiment import run_length
from crnn_jax.training.milestones import Milestones
from crnn_jax.training.state import learning_rate_schedule, make_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"


def changed(**values: Any) -> ml_collections.ConfigDict:
    """The default recipe with some values changed; `data__height=31` is config.data.height."""
    config = captcha.get_config()
    config.update_from_flattened_dict({key.replace("__", "."): v for key, v in values.items()})
    return config


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda file: file.stem)
def test_every_config_can_be_used(file: Path) -> None:
    module = importlib.import_module(f"configs.{file.stem}")
    check_config(module.get_config())
    assert f"python -m crnn_jax.main --config configs/{file.name}" in (module.__doc__ or "")


def test_scene_text_is_read_as_it_is_written() -> None:
    """All of printable ASCII (20 to 7E), each character once."""
    characters = scene_text.get_config().alphabet.characters
    assert sorted(characters) == [chr(code) for code in range(0x20, 0x7F)]


@pytest.mark.parametrize("variant", captcha.VARIANTS)
def test_every_variant_can_be_used(variant: str) -> None:
    check_config(captcha.get_config(variant))


def test_the_benchmarks_of_scene_text_can_be_learned_from() -> None:
    config = scene_text.get_config("benchmarks")
    check_config(config)
    chosen_by = [
        name for name, part in config.data.parts.items() if "validation_fraction" not in part
    ]
    assert sorted(chosen_by) == ["icdar15", "iiit5k"]
    with pytest.raises(ValueError, match=r"'benchmark'; .*default, benchmarks"):
        scene_text.get_config("benchmark")


def test_variants_are_told_apart() -> None:
    recipes = [captcha.get_config(variant).to_json() for variant in captcha.VARIANTS]
    assert len(set(recipes)) == len(captcha.VARIANTS) == 5
    with pytest.raises(ValueError, match=r"'papre'.*default, quick, fine_tune, paper, seed"):
        captcha.get_config("papre")


def test_the_seed_variant_is_the_tutorial() -> None:
    """What it builds behaves as the tutorial says.

    The network has 256 hidden units and 63 classes; PyTorch counts 8,344,639 parameters, with a
    second bias of 4 x 256 in each of its four LSTM directions. Batch normalization moves its
    statistics by PyTorch's 0.1. 8,000 captchas in batches of 32 are gone through 75 times, with
    metrics every 25 epochs, by Adam at 1e-3 throughout, without clipping.
    """
    config = captcha.get_config("seed")
    settings = config.model.to_dict()
    name = settings.pop("name")
    images = jnp.zeros((2, config.data.height, config.data.width, config.data.channels), jnp.uint8)
    widths = jnp.full(2, config.data.width)
    network = models.create(name, 63, settings)
    shapes: Any = jax.eval_shape(network.init, jax.random.key(0), images, widths)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == 8_344_639 - 4 * 4 * 256

    narrow: Any = models.create(name, 63, {**settings, "channels": (2,) * 7, "hidden": 2})
    batch = images[:, :, :32].at[0, :, ::2].set(255), jnp.full(2, 32)

    @jit
    def train(variables: Any) -> Any:
        return narrow.apply(variables, *batch, train=True, mutable=["batch_stats"])[1]

    variables = jit(narrow.init)(jax.random.key(0), *batch)
    first = train(variables)
    second = train({**variables, **first})
    before, once, twice = (
        jnp.concatenate(jax.tree.leaves(tree["batch_stats"])) for tree in (variables, first, second)
    )
    # The batch is the same, so the second change is 0.9 of the first.
    assert np.abs(once - before).max() > 0.01
    np.testing.assert_allclose(twice - once, 0.9 * (once - before), atol=1e-6)

    epochs, steps = run_length(config, 8_000), 75 * 250
    assert epochs * (8_000 // config.batch_size) == steps
    milestones = Milestones.from_config(config, steps)
    evaluated = [step for step in range(1, steps + 1) if milestones.evaluate_at(step)]
    assert evaluated == [25 * 250, 50 * 250, 75 * 250]

    schedule = learning_rate_schedule(config.optimizer, steps)
    np.testing.assert_allclose([schedule(step) for step in (0, 9_375, 18_749)], 1e-3)
    optimizer = make_optimizer(schedule, config.optimizer.clip_norm, config.freeze == "conv_stack")
    params = {"conv_stack": jnp.zeros(())}
    state = optimizer.init(params)
    expected = m = v = 0.0
    for t, gradient in enumerate((300.0, -4.0, 0.5), start=1):
        updates, state = optimizer.update({"conv_stack": jnp.array(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected -= 1e-3 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert float(params["conv_stack"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("file", "fields"), [("captcha.py", 30), ("scene_text.py", 8), ("chinese.py", 7)]
)
def test_every_field_has_a_comment(file: str, fields: int) -> None:
    text = (CONFIGS / file).read_text(encoding="utf-8")
    lines = re.split(r'    if variant [!=]= "', text)[0].splitlines()
    field = re.compile(r"    config\.[\w.]+ = (?!ml_collections)|            \"[\w.]+\": ")
    numbers = [number for number, line in enumerate(lines) if field.match(line)]
    assert len(numbers) > fields
    for number in numbers:
        # Fields in a row share the comment above the first.
        above = next(line for line in reversed(lines[:number]) if not field.match(line))
        assert above.strip().startswith("#"), lines[number]


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("batch_size", 0, "at least 1"),
        ("epochs", 0, "at least 1"),
        ("eval_every", 0, "at least 1"),
        ("log_every", -1, "at least 1"),
        ("keep", 0, "at least 1"),
        ("data.buckets", 0, "at least 1"),
        ("max_skipped", 0, "at least 1"),
        ("min_steps", -1, "0 or more"),
        ("patience", -1, "above 0, or 0"),
        ("trace_steps", -1, "0 or more"),
        ("optimizer.ema_decay", 1.0, "below 1"),
        ("model.name", "crm", "crnn, crnn_half"),
        ("model.batch_norm", "some", "paper, bgshih, nano_ocr, all, none"),
        ("model.momentum", 1.0, "0 or more, below 1"),
        ("optimizer.shortcut_end", 0.0, "share of the run"),
        ("model.dropout", -0.1, "0 or more, below 1"),
        ("model.dtype", "float16", "float32 or bfloat16"),
        ("model.space_to_depth", 3, "1 or 2"),
        ("data.height", 31, "leaves 0 rows .*space_to_depth=2; set --config.data.height=64"),
        ("data.height", 32, "leaves 0 rows .*=2; set --config.model.space_to_depth=1"),
        ("data.height", 96, "leaves 2 rows .*space_to_depth=2; set --config.data.height=64"),
        ("data.channels", 2, "1 .*3"),
        ("data.test_fraction", 0.0, "between 0 and 1"),
        ("data.test_fraction", 1.0, "between 0 and 1"),
        ("data.validation_fraction", 1.5, "between 0 and 1"),
        ("data.workers", -1, "0 .*or more"),
        ("data.on_unreadable", "map", "error or drop"),
        ("data.on_empty_label", "keep", "error or drop"),
        ("data.on_unseen", "skip", "error, drop or map"),
        ("data.map_to", "??", "one character"),
        ("data.max_dropped", 1.0, "below 1"),
        ("optimizer.learning_rate", 0.0, "above 0"),
        ("optimizer.learning_rate", float("inf"), "above 0"),
        ("optimizer.boundaries", ("x", 1), "rise"),
        ("optimizer.factors", ("x", 1), "numbers"),
        ("optimizer.learning_rate", float("nan"), "above 0"),
        ("optimizer.clip_norm", -1.0, "above 0, or 0"),
        ("optimizer.warmup", -0.5, "share: 0 or more"),
        ("optimizer.boundaries", (0.9, 0.7), "rise"),
        ("optimizer.boundaries", (0.7, 0.7), "rise"),
        ("optimizer.boundaries", (5.5, 7.0), "shares of the run"),
        ("optimizer.factors", (0.3,), "2 boundaries"),
        ("init_scope", "head", "all or conv_stack"),
        ("freeze", "bilstm1", "'' .*conv_stack"),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(key: str, value: Any, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_config(changed(**{key: value}))
    message = str(error.value)
    assert re.fullmatch(rf"config: {re.escape(f'{key}={value!r}')}: .*{remedy}.*", message)


WORDS = {"source": "folder", "dir": "words"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, r"data\.parts: a mixture needs a part"),
        ({"a": {**WORDS, "weight": 0.0}}, r"data\.parts: a mixture needs a part with a weight"),
        (
            {"a": {**WORDS, "height": 32}},
            r"data\.parts\.a\.height: a part cannot set it, only source, dir",
        ),
        ({"a": {"dir": "x"}}, r"data\.parts\.a\.source=None: must be one of folder, generated"),
        ({"a": {"source": "mixture"}}, r"data\.parts\.a\.source='mixture': must be one of folder"),
        ({"a": {**WORDS, "weight": -1.0}}, r"data\.parts\.a\.weight=-1\.0: must be above 0"),
        ({"a": {**WORDS, "weight": "x"}}, r"data\.parts\.a\.weight='x': must be"),
        ({"a": {**WORDS, "weight": float("inf")}}, r"data\.parts\.a\.weight=inf: must be"),
        (
            {"a": {**WORDS, "test_fraction": 1.0}},
            r"data\.parts\.a\.test_fraction=1\.0: must be a share",
        ),
    ],
)
def test_parts_that_cannot_be_used(parts: dict[str, Any], message: str) -> None:
    config = captcha.get_config()
    config.data.update(source="mixture", parts=parts)
    with pytest.raises(ConfigError, match=rf"^config: {message}[^;]*(; see [^;]*)?$"):
        check_config(config)


def test_parts_that_can_be_used_and_overridden() -> None:
    config = captcha.get_config()
    config.data.source = "mixture"
    config.data.parts = {
        "real": {**WORDS, "validation_fraction": 0.1},
        "drawn": {"source": "generated", "weight": 2.0, "test_fraction": 0.0},
    }
    config.lock()
    config.update_from_flattened_dict({"data.parts.drawn.weight": 3})
    check_config(config)
    assert {name: part["weight"] for name, part in parts_of(config.data).items()} == {
        "drawn": 3.0,
        "real": 1.0,
    }
    assert parts_of(config.data)["drawn"]["variant"] == config.data.variant


@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_heights_that_leave_one_row(space_to_depth: int) -> None:
    """Those of the paper's network with space to depth by as much, by its arithmetic."""
    fitting = set(range(32 * space_to_depth, 48 * space_to_depth))
    for height in range(120):
        config = changed(data__height=height, model__space_to_depth=space_to_depth)
        refused = pytest.raises(ConfigError, match=rf"data\.height={height}: leaves")
        with contextlib.nullcontext() if height in fitting else refused:
            check_config(config)


def test_several_problems_are_reported_together() -> None:
    bad = {"batch_size": 0, "model__name": "x", "data__channels": 4, "optimizer__factors": ()}
    with pytest.raises(ConfigError) as error:
        check_config(changed(**bad))
    message = str(error.value)
    assert "\n" not in message
    for key in bad:
        assert message.count(f"{key.replace('__', '.')}=") == 1
    assert message.count(";") == len(bad) - 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("batchsize", "there is no config.batchsize, did you mean config.batch_size?"),
        ("data.sauce", "there is no config.data.sauce, did you mean config.data.source?"),
        ("qqq", "there is no config.qqq"),
        ("init_parts", "config.init_parts has another name now: config.init_scope"),
        ("eval.step", "config.eval.step has another name now: --step"),
    ],
)
def test_a_setting_of_another_name_is_refused(key: str, message: str) -> None:
    """As in a config file; a setting that nobody reads would be a mistake without a word."""
    config = captcha.get_config()
    config.eval = ml_collections.ConfigDict()
    config.update_from_flattened_dict({key: 1})
    with pytest.raises(ConfigError, match=rf"^config: {re.escape(message)}$"):
        check_config(config)


def test_a_missing_setting_is_named() -> None:
    config = captcha.get_config()
    del config.trace_steps
    with pytest.raises(ConfigError, match=r"^config: trace_steps is missing; begin with get_conf"):
        check_config(config)


def test_the_command_line_changes_a_value() -> None:
    config = captcha.get_config("paper")
    overrides = ("--config.batch_size=8", "--config.data.dir=a=b", "--config.model.leaky=true")
    override(
        config, ["main.py", *overrides, "--noconfig.alphabet.ignore_case", "-config.seed", "3"]
    )
    expected = captcha.get_config("paper")
    expected.update(batch_size=8, seed=3)
    expected.data.dir = "a=b"
    expected.model.leaky = True
    assert config.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--config.batchsize=8", "no config.batchsize, did you mean config.batch_size?"),
        ("--config.model.drop=8", "no config.model.drop, did you mean config.model.dropout?"),
        ("--config.data.sauce=folder", "did you mean config.data.source?"),
        ("--config.model.=8", "no config.model."),
        ("--config.optimizer.clip_norm=x", "clip_norm"),
        ("--config.batch_size=many", "batch_size"),
        ("folder", "what is 'folder'"),
    ],
)
def test_a_mistyped_override_is_refused(argument: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^command line: .*{re.escape(named)}"):
        override(captcha.get_config(), ["main.py", argument])


@pytest.mark.parametrize(
    ("argument", "new"),
    [("--config.init_parts=all", "config.init_scope"), ("--config.eval.step=3", "--step")],
)
def test_an_override_of_an_old_name_is_refused_with_the_new_one(argument: str, new: str) -> None:
    with pytest.raises(ConfigError, match=rf"another name now: {new}$"):
        override(captcha.get_config(), ["main.py", argument])


def test_a_config_from_the_command_line_takes_no_new_keys() -> None:
    config = captcha.get_config()
    override(config, ["main.py"])
    with pytest.raises(AttributeError, match="batchsize"):
        config.batchsize = 8
    with pytest.raises(AttributeError, match="sauce"):
        config.data.sauce = "folder"
    with pytest.raises(TypeError, match="batch_size"):
        config.batch_size = "many"
