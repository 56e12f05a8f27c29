"""Checks the values of a config together, before anything is built from them."""

import math
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from crnn_jax.architecture import BATCH_NORM_VARIANTS, Architecture
from crnn_jax.data.sources import MIXTURE, PART_SETTINGS, SOURCES, parts_of
from crnn_jax.errors import ConfigError
from crnn_jax.models import MODELS
from crnn_jax.recipes import DEFAULT, Config, get_config, no_such_setting, settings_of

SHARE = "must be a share: 0 or more, below 1"
SPACE_TO_DEPTH = (1, 2)


def check_config(config: Config) -> None:
    """Raises ConfigError with one line for all settings and values that cannot be used.

    Each problem names its key and the remedy.
    """
    problems = _check_names(config)
    if problems:  # a missing setting has no value to check
        raise ConfigError("config: " + "; ".join(problems))

    def require(key: str, ok: bool, remedy: str) -> None:
        if not ok:
            problems.append(f"{key}={_value(config, key)!r}: {remedy}")

    for key in ("batch_size", "epochs", "eval_every", "log_every", "keep", "data.buckets"):
        require(key, _value(config, key) >= 1, "must be at least 1")
    require("max_skipped", config.max_skipped >= 1, "must be at least 1")
    require("seed", 0 <= config.seed < 2**32, "must lie between 0 and 4294967295")
    for key in ("min_steps", "trace_steps"):
        require(key, _value(config, key) >= 0, "must be 0 or more")
    require("patience", config.patience >= 0, "must be above 0, or 0 to run to the end")

    require("model.name", config.model.name in MODELS, f"must be one of {', '.join(MODELS)}")
    require(
        "model.batch_norm",
        config.model.batch_norm in BATCH_NORM_VARIANTS,
        f"must be one of {', '.join(BATCH_NORM_VARIANTS)}",
    )
    for key in ("model.momentum", "model.dropout"):
        require(key, 0 <= _value(config, key) < 1, SHARE)
    dtype = config.model.dtype
    require("model.dtype", dtype in ("float32", "bfloat16"), "must be float32 or bfloat16")
    factor = config.model.space_to_depth
    require("model.space_to_depth", factor in SPACE_TO_DEPTH, "must be 1 or 2")
    if factor in SPACE_TO_DEPTH and config.model.name in MODELS:
        _check_height(config, problems)
    require("data.channels", config.data.channels in (1, 3), "must be 1 (gray) or 3 (color)")
    for key in ("data.test_fraction", "data.validation_fraction"):
        require(key, 0 < _value(config, key) < 1, "must lie between 0 and 1, both excluded")
    _check_parts(config.data, problems)
    require("data.workers", config.data.workers >= 0, "must be 0 (threads) or more (processes)")

    for key in ("data.on_unreadable", "data.on_empty_label"):
        require(key, _value(config, key) in ("error", "drop"), "must be error or drop")
    policy = config.data.on_unseen
    require("data.on_unseen", policy in ("error", "drop", "map"), "must be error, drop or map")
    require("data.map_to", len(config.data.map_to) < 2, "must be one character, or '' for none")
    require("data.max_dropped", 0 <= config.data.max_dropped < 1, SHARE)

    optimizer = config.optimizer
    require("optimizer.learning_rate", 0 < optimizer.learning_rate < math.inf, "must be above 0")
    require("optimizer.clip_norm", optimizer.clip_norm >= 0, "must be above 0, or 0 for none")
    require("optimizer.ema_decay", 0 <= optimizer.ema_decay < 1, "must be below 1, or 0 for none")
    require("optimizer.warmup", 0 <= optimizer.warmup < 1, SHARE)
    require("optimizer.shortcut_end", 0 < optimizer.shortcut_end <= 1, "must be a share of the run")
    require("optimizer.factors", _numbers(optimizer.factors), "must be numbers")
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
        f"must have one factor for each of the {len(optimizer.boundaries)} boundaries",
    )

    require("init_scope", config.init_scope in ("all", "conv_stack"), "must be all or conv_stack")
    require("freeze", config.freeze in ("", "conv_stack"), "must be '' (nothing) or conv_stack")
    if problems:
        raise ConfigError("config: " + "; ".join(problems))


def _check_names(config: Config) -> list[str]:
    """The problems with the names of the settings, which are those of the default recipe.

    A network may have further settings, and a mixture names its parts.
    """
    known, own = settings_of(get_config(DEFAULT)), settings_of(config)
    problems = [
        no_such_setting(name, known)
        for name, value in own.items()
        if not (name in known or isinstance(value, ConfigDict))
        and not name.startswith(("model.", "data.parts."))
    ]
    if missing := [name for name in known if name not in own] if not problems else []:
        problems.append(f"{', '.join(missing)} is missing; begin with get_config({DEFAULT!r})")
    return problems


def _check_height(config: Config, problems: list[str]) -> None:
    """Checks that one row of features is left, or several of which the network takes the mean."""
    height, factor = config.data.height, config.model.space_to_depth
    described = Architecture.of(config.model.name, config.model)
    if described.fits(height):
        return
    fitting = (n for n in SPACE_TO_DEPTH if replace(described, space_to_depth=n).rows(height) == 1)
    remedy = next((f"model.space_to_depth={n}" for n in fitting), f"data.height={32 * factor}")
    rows = max(described.rows(height), 0)
    problems.append(
        f"data.height={height!r}: leaves {rows} rows of features instead of one with"
        f" model.space_to_depth={factor}; set --config.{remedy}"
    )


def _check_parts(data: Any, problems: list[str]) -> None:
    if data.source != MIXTURE:
        return
    if not any(part["weight"] for part in parts_of(data).values()):
        problems.append("data.parts: a mixture needs a part with a weight; see configs/captcha.py")
    for name, part in data.parts.items():
        key = f"data.parts.{name}"
        if unknown := set(part) - set(PART_SETTINGS):
            problems.append(
                f"{key}.{min(unknown)}: a part cannot set it, only {', '.join(PART_SETTINGS)}"
            )
        if (source := part.get("source")) not in SOURCES:
            problems.append(f"{key}.source={source!r}: must be one of {', '.join(SOURCES)}")
        if not (_numbers([weight := part.get("weight", 1.0)]) and 0 <= weight < math.inf):
            problems.append(f"{key}.weight={weight!r}: must be above 0, or 0 to evaluate only")
        for fraction in ("test_fraction", "validation_fraction"):
            if not (_numbers([value := part.get(fraction, 0.0)]) and 0 <= value < 1):
                problems.append(f"{key}.{fraction}={value!r}: {SHARE}")


def _numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
