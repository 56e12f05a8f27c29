"""Random damage to files and command lines, with fixed seeds: only the project's errors are raised.

scripts/fuzz.py tries the same inputs for as long as wanted, and also finds what takes too much time
or memory.
"""

import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs import captcha
from crnn_jax import commands
from crnn_jax.errors import CrnnError

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import fuzz
from fuzzing import INPUTS, command_lines

# Cases of each input; command lines follow below.
CASES = {"image": 500, "labels": 500, "lmdb": 200, "parquet": 150} | {
    "tfds": 100,
    "manifest": 80,
    "npz": 60,
}


@pytest.mark.parametrize("name", CASES)
def test_damaged_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "undamaged").mkdir()
    INPUTS[name].create(tmp_path / "undamaged")
    assert fuzz.read(name, tmp_path / "undamaged").ending == "read"
    endings: Counter[str] = Counter()

    def count(outcome: fuzz.Outcome) -> None:
        assert outcome.ending in ("read", "refused"), outcome.ending
        endings[outcome.ending] += 1

    fuzz.try_inputs(name, tmp_path, 0, CASES[name], count)
    assert endings["read"] > CASES[name] // 50 and endings["refused"] > CASES[name] // 10, endings


VALUES = (
    *("0", "-1", "1", "2", "7", "1e999", "-1e999", "nan", "0.5", "1e-9", "99999999999999999999"),
    *("", "x", "None", "True", "()", "(1,)", "(0.5,0.6)", "('a','b')", "[1", "(1,'x')", "{}"),
    *("\0", "\u00e9", "a" * 3000, "=", "--", "__import__('os')"),
)


def test_overrides() -> None:
    """From the command line to all that is built from a config before an image is read."""
    rng = random.Random(3)
    keys = sorted(key for key, _ in captcha.get_config().iteritems(preserve_field_references=False))
    flat = flatten(captcha.get_config().to_dict())
    built = 0
    for case in range(200):
        names = rng.sample(flat, rng.choice((1, 1, 1, 2)))
        if case % 10 == 0:
            names.append(
                rng.choice((*keys, "x", "data.x", "model.", ".", "batch_size.x", "data..x"))
            )
        overrides = [f"--config.{name}={rng.choice(VALUES)}" for name in names]
        config = captcha.get_config()
        try:
            commands.override(config, ["main.py", *overrides])
            command_lines.build(config)
            built += 1
        except CrnnError:
            pass
    assert 20 < built < 200, built


def flatten(config: dict[str, Any], start: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        names += flatten(value, f"{start}{key}.") if isinstance(value, dict) else [start + key]
    return names
