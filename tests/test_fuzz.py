"""Random damage to files and command lines, with fixed seeds: only our own errors are raised.

There are 1,500 cases for images, 1,500 for label files, 200 for LMDB databases, 80 for manifests
and 200 for overrides of the config. LMDB has no checksums and follows the pointers in its pages,
which are therefore not damaged; keys, values and the length of the file are.
"""

import contextlib
import io
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import captcha
from crnn_jax import commands, models
from crnn_jax.config import check_config
from crnn_jax.data.augment import Augmentation
from crnn_jax.data.images import FORMATS, Preprocessing, prepare
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.lmdb_database import load_lmdb
from crnn_jax.dataset import config_preprocessing
from crnn_jax.errors import CrnnError
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.training.manifest import seal
from crnn_jax.training.state import learning_rate_schedule, make_optimizer
from tests.test_sources import write_lmdb

DATA = Path(__file__).parent / "data"
CAPTCHA = DATA / "captcha_keras_v2" / "images" / "00027.png"


@contextlib.contextmanager
def only_our_errors(case: object) -> Iterator[None]:
    """Allows success, and our errors with a message of one line."""
    try:
        yield
    except CrnnError as error:
        message = str(error)
        assert len(message) > 20 and "\n" not in message, f"{case!r}: {message!r}"
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} escaped from {case!r}: {error}") from error


def never(*_: object, **__: object) -> None:
    """Takes the place of a function that must not be called."""
    pytest.fail("it was called")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Changes, removes, repeats or inserts some bytes."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        start = rng.randrange(len(result) + 1)
        end = min(len(result), start + rng.choice((1, 2, 4, 30)))
        match rng.randrange(5):
            case 0 if start < len(result):
                result[start] ^= 1 << rng.randrange(8)
            case 1:
                result[start:end] = rng.randbytes(end - start)
            case 2:
                del result[start : max(end, rng.choice((end, len(result))))]
            case 3:
                result[start:start] = result[start:end]
            case _:
                result[start:end] = rng.choice((b"\0" * 4, b"\xff" * 4, b"\t\n", b'"', b"\xc3\xa9"))
    return bytes(result)


def test_images() -> None:
    rng = random.Random(0)
    originals = []
    with Image.open(CAPTCHA) as image:
        for file_format in FORMATS:
            file = io.BytesIO()
            image.convert("RGB").save(file, file_format)
            originals.append(file.getvalue())
    read = 0
    for case in range(1500):
        data = mutated(rng.choice(originals), rng)
        with only_our_errors(case):
            array = prepare(data, Preprocessing(), "x.png")
            assert array.dtype == np.uint8 and array.shape[0] == 32
            read += 1
    assert 100 < read < 1400


LABEL_FILES = {
    ".tsv": "a.png\tone\nb.png\ttwo 2\nc.png\tthr\u00e9e\n",
    ".csv": 'file_name,text\na.png,one\nb.png,"two, 2"\nc.png,thr\u00e9e\n',
    ".jsonl": '{"file": "a.png", "text": "one"}\n{"file": "b.png", "text": "tw\\u00f6"}\n',
}


@pytest.mark.parametrize("ending", LABEL_FILES)
def test_label_files(tmp_path: Path, ending: str) -> None:
    rng = random.Random(1)
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(CAPTCHA, tmp_path / name)
    for split in ("train", "test"):
        (tmp_path / f"{split}{ending}").write_bytes(LABEL_FILES[ending].encode())
    assert len(folder(tmp_path)["train"]) >= 2
    refused = 0
    for case in range(500):
        data = mutated(LABEL_FILES[ending].encode(), rng)
        (tmp_path / f"train{ending}").write_bytes(data)
        refused += 1
        with only_our_errors(data):
            split = folder(tmp_path)["train"]
            assert all(split.read(index) for index in range(len(split)))
            refused -= 1
        del case
    assert 20 < refused < 500


def test_lmdb_databases(tmp_path: Path) -> None:
    rng = random.Random(2)
    image = CAPTCHA.read_bytes()
    samples = {b"num-samples": b"3"}
    for number in (1, 2, 3):
        samples[b"image-%09d" % number] = image
        samples[b"label-%09d" % number] = "thr\u00e9e".encode()
    read = 0
    for case in range(200):
        directory = tmp_path / f"{case}" / "test"
        stored = dict(samples)
        for _ in range(rng.randrange(3)):
            key = rng.choice(list(stored))
            if rng.random() < 0.3:
                stored[mutated(key, rng)[:500] or b"x"] = stored.pop(key)
            else:
                stored[key] = mutated(stored[key], rng)
        if rng.random() < 0.3:
            stored[b"num-samples"] = rng.choice(
                (b"-1", b"999999999999", b"4", b"1e3", b"\xff", b"")
            )
        write_lmdb(directory, stored)
        file = directory / "data.mdb"
        if rng.random() < 0.3:
            file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
        with only_our_errors(case):
            split = load_lmdb({"dir": str(directory.parent)})["test"]
            for index in range(len(split)):
                prepare(split.read(index), Preprocessing(), split.names[index])
            read += 1
    assert 20 < read < 180


# Values that a manifest from elsewhere may have in the wrong place.
STRANGE = (
    *(None, True, -1, 0, 3, 10**6, 10**30, 0.5, -1e300, float("nan"), float("inf")),
    *("", "x", "../../etc", "\0", "a" * 5000, "\ud800"),
    *([], [1], [[1]] * 7, [-1] * 7, [0] * 7, [10**9] * 7, {}, {"x": 1}, {"parent": None}),
)


def changed(value: Any, rng: random.Random) -> Any:
    """Replaces, removes or adds something in JSON."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                new = rng.choice(("name", "parent", "dropout", "dtype", "axis_name", "x", ""))
                return {**value, new: rng.choice(STRANGE)}
            case _:
                return {**value, key: changed(value[key], rng)}
    return rng.choice(STRANGE)


def test_manifests(tmp_path: Path) -> None:
    """Random bytes changed, and well-formed manifests with wrong values and a valid digest."""
    rng = random.Random(2)
    shutil.copytree(DATA / "checkpoints" / "format2", tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "12" / "manifest" / "metadata"
    original = path.read_bytes()
    whole = json.loads(original)
    del whole["digest"]
    for case in range(80):
        if case % 4 == 0:
            path.write_bytes(mutated(original, rng))
        else:
            keys = ("model", "model", "alphabet", "preprocessing", rng.choice(sorted(whole)))
            key = rng.choice(keys)
            path.write_text(json.dumps(seal({**whole, key: changed(whole[key], rng)})))
        with only_our_errors(path.read_bytes()[:2000]):
            TrainedModel.load(tmp_path / "run")


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
        with only_our_errors(overrides):
            commands.override(config, ["main.py", *overrides])
            build(config)
            built += 1
    assert 20 < built < 200, built


def flatten(config: dict[str, Any], start: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        names += flatten(value, f"{start}{key}.") if isinstance(value, dict) else [start + key]
    return names


def build(config: Any) -> None:
    """Builds what `Experiment.build` does, without images, and an initial state without values."""
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
