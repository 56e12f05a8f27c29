"""Exports in ONNX and in 8-bit integers: what they read, and their program."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from crnn_jax.data.images import decode
from crnn_jax.errors import ConfigError
from crnn_jax.exporting import Outputs, Reader
from crnn_jax.exporting.int8 import Int8Format
from crnn_jax.exporting.onnx_format import OnnxFormat
from crnn_jax.recognition.trained_model import TrainedModel

IMAGES = sorted((Path(__file__).parent / "data" / "captcha_keras_v2" / "images").iterdir())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel.load("captcha")


@pytest.fixture(scope="module")
def folder(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    OnnxFormat().write(model, folder, [])
    return folder


@pytest.fixture(scope="module")
def reader(folder: Path) -> Reader:
    return OnnxFormat().load(folder)


def texts(model: TrainedModel, outputs: Outputs) -> list[str]:
    return model.alphabet.decode_batch(outputs.classes, outputs.lengths)


def test_the_program_reads_files_as_the_package_does(
    model: TrainedModel, folder: Path, reader: Reader, tmp_path: Path
) -> None:
    """Gray, transparent, turned and 16-bit files."""
    original = Image.open(IMAGES[0]).convert("RGB")
    clear = original.convert("RGBA")
    clear.putalpha(original.convert("L").point(lambda value: 255 - value // 4))
    turned = Image.Exif()
    turned[0x0112] = 6
    original.convert("L").save(tmp_path / "gray.png")
    clear.save(tmp_path / "clear.png")
    original.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    deep = np.asarray(original.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    paths = [*map(str, IMAGES[:3]), *map(str, sorted(tmp_path.iterdir()))]
    command = [sys.executable, str(folder / "read.py"), *paths]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in printed.splitlines()]
    decoded = [decode(Path(path).read_bytes(), model.preprocessing, path) for path in paths]
    outputs = reader(np.stack([np.asarray(image) for image in decoded]))
    wanted = texts(model, outputs)
    assert [row[:2] for row in rows] == list(map(list, zip(paths, wanted, strict=True)))
    np.testing.assert_allclose([float(row[2]) for row in rows], outputs.confidence, atol=1e-5)
    assert wanted[0] == wanted[-1] == "226md"


def test_the_folder_describes_itself(model: TrainedModel, folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "model.json", "model.onnx", "read.py"]
    graph = onnx.load(folder / "model.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert {"Conv", "LSTM"} <= kinds
    assert "BatchNormalization" not in kinds
    assert {node.domain for node in graph.node} == {""}
    assert len((folder / "read.py").read_text(encoding="utf-8").splitlines()) <= 40


def test_int8_reads_nearly_the_same(
    model: TrainedModel, reader: Reader, folder: Path, tmp_path: Path
) -> None:
    images = [pixels(path) for path in IMAGES]
    Int8Format().write(model, tmp_path, images[:10])
    outputs, wanted = Int8Format().load(tmp_path)(np.stack(images)), reader(np.stack(images))
    same = np.equal(texts(model, outputs), texts(model, wanted))
    assert same.mean() > 0.9
    assert np.abs(outputs.logits - wanted.logits).mean() < 0.3
    sizes = [(place / "model.onnx").stat().st_size for place in (folder, tmp_path)]
    assert sizes[1] < 0.6 * sizes[0]


def test_int8_needs_images(model: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="onnx-int8 needs images"):
        Int8Format().write(model, tmp_path, [])
    assert not list(tmp_path.iterdir())
