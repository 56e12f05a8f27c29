"""Checks the values of a config together, before anything is built from them."""

import math
from typing import Any, TypeAlias

from crnn_jax.data.sources import MIXTURE, PART_SETTINGS, SOURCES, parts_of
from crnn_jax.errors import ConfigError
from crnn_jax.models import MODELS
from crnn_jax.models.conv_stack import BATCH_NORM_VARIANTS, output_height

# An ml_collections.ConfigDict, whose fields have types that no checker can see.
Config: TypeAlias = Any


def check_config(config: Config) -> None:
    """Raises ConfigError with one line for all the values that cannot be used.

    Each problem names its key and the remedy.
    """
    problems: list[str] = []

    def require(key: str, ok: bool, remedy: str) -> None:
        if not ok:
            problems.append(f"{key}={_value(config, key)!r}: {remedy}")

    for key in ("batch_size", "epochs", "eval_every", "log_every", "keep", "data.buckets"):
        require(key, _value(config, key) >= 1, "must be at least 1")
    require("max_skipped", config.max_skipped >= 1, "must be at least 1")
    require("seed", 0 <= config.seed < 2**32, "lies between 0 and 4294967295")
    require("min_steps", config.min_steps >= 0, "must be 0 or more")
    require("patience", config.patience >= 0, "must be above 0, or 0 for a run to its end")
    require("trace_steps", config.trace_steps >= 0, "must be above 0, or 0 for no trace")

    require("model.name", config.model.name in MODELS, f"is one of {', '.join(MODELS)}")
    require(
        "model.batch_norm",
        config.model.batch_norm in BATCH_NORM_VARIANTS,
        f"is one of {', '.join(BATCH_NORM_VARIANTS)}",
    )
    for key in ("model.momentum", "model.dropout"):
        require(key, 0 <= _value(config, key) < 1, "is a share, 0 or more, below 1")
    require("model.dtype", config.model.dtype in ("float32", "bfloat16"), "is float32 or bfloat16")
    height = config.data.height
    require(
        "data.height",
        output_height(height) == 1,
        f"leaves {output_height(height)} rows of features instead of one; set 32 or 64",
    )
    require("data.channels", config.data.channels in (1, 3), "is 1 (gray) or 3 (color)")
    for key in ("data.test_fraction", "data.validation_fraction"):
        require(key, 0 < _value(config, key) < 1, "lies between 0 and 1, both excluded")
    _check_parts(config.data, problems)
    require("data.workers", config.data.workers >= 0, "must be 0 (threads) or more (processes)")

    for key in ("data.on_unreadable", "data.on_empty_label"):
        require(key, _value(config, key) in ("error", "drop"), "is error or drop")
    policy = config.data.on_unseen
    require("data.on_unseen", policy in ("error", "drop", "map"), "is error, drop or map")
    require("data.map_to", len(config.data.map_to) < 2, "is one character, or '' for none")
    require("data.max_dropped", 0 <= config.data.max_dropped < 1, "is a share, 0 or more, below 1")

    optimizer = config.optimizer
    require("optimizer.learning_rate", 0 < optimizer.learning_rate < math.inf, "must be above 0")
    require("optimizer.clip_norm", optimizer.clip_norm >= 0, "must be above 0, or 0 for none")
    require("optimizer.ema_decay", 0 <= optimizer.ema_decay < 1, "is below 1, or 0 for no average")
    require("optimizer.warmup", 0 <= optimizer.warmup < 1, "is a share of the run, from 0 to 1")
    require("optimizer.shortcut_end", 0 < optimizer.shortcut_end <= 1, "is a share of the run")
    require("optimizer.factors", _numbers(optimizer.factors), "are numbers")
    require(
        "optimizer.boundaries",
        _numbers(optimizer.boundaries)
        and list(optimizer.boundaries) == sorted(set(optimizer.boundaries))
        and all(0 < boundary < 1 for boundary in optimizer.boundaries),
        "must rise, as shares of the run between 0 and 1",
    )
    require(
        "optimizer.factors",
        len(optimizer.factors) == len(optimizer.boundaries),
        f"needs one factor for each of the {len(optimizer.boundaries)} boundaries",
    )

    require("init_parts", config.init_parts in ("all", "conv_stack"), "is all or conv_stack")
    require("freeze", config.freeze in ("", "conv_stack"), "is '' (nothing) or conv_stack")
    if problems:
        raise ConfigError("config: " + "; ".join(problems))


def _check_parts(data: Any, problems: list[str]) -> None:
    if data.source != MIXTURE:
        return
    if not any(part["weight"] for part in parts_of(data).values()):
        problems.append("data.parts: a mixture needs a part with a weight; see configs/captcha.py")
    for name, part in data.parts.items():
        key = f"data.parts.{name}"
        if unknown := set(part) - set(PART_SETTINGS):
            problems.append(
                f"{key}.{min(unknown)}: is not for a part to set; it has {', '.join(PART_SETTINGS)}"
            )
        if part.get("source") not in SOURCES:
            problems.append(f"{key}.source={part.get('source')!r}: is one of {', '.join(SOURCES)}")
        if not (_numbers([weight := part.get("weight", 1.0)]) and 0 <= weight < math.inf):
            problems.append(f"{key}.weight={weight!r}: must be above 0, or 0 to evaluate only")
        for fraction in ("test_fraction", "validation_fraction"):
            if not (_numbers([value := part.get(fraction, 0.0)]) and 0 <= value < 1):
                problems.append(f"{key}.{fraction}={value!r}: is a share, 0 or more, below 1")


def _numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
