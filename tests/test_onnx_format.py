"""Exports in ONNX and in 8-bit integers: what they read, and their program."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from crnn_jax.errors import ConfigError
from crnn_jax.exporting import Outputs, Reader
from crnn_jax.exporting.int8 import Int8Format
from crnn_jax.exporting.onnx_format import OnnxFormat
from crnn_jax.recognition.recognizer import Recognizer

IMAGES = sorted((Path(__file__).parent / "data" / "captcha_keras_v2" / "images").iterdir())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


@pytest.fixture(scope="module")
def folder(recognizer: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    OnnxFormat().write(recognizer.model, folder, [])
    return folder


@pytest.fixture(scope="module")
def reader(folder: Path) -> Reader:
    return OnnxFormat().load(folder)


def texts(recognizer: Recognizer, outputs: Outputs) -> list[str]:
    return recognizer.model.alphabet.decode_batch(outputs.classes, outputs.lengths)


def test_it_reads_as_in_jax(recognizer: Recognizer, reader: Reader) -> None:
    outputs = reader(np.stack([pixels(path) for path in IMAGES[:4]]))
    wanted = recognizer(IMAGES[:4])
    assert texts(recognizer, outputs) == [result.text for result in wanted]
    confidences = [result.confidence for result in wanted]
    np.testing.assert_allclose(outputs.confidence, confidences, atol=1e-4)
    assert min(confidences) < 0.9 < max(confidences)
    for row, result in enumerate(wanted):
        # A character is as likely as in its most likely time step.
        steps = np.exp(outputs.log_probabilities[row])[outputs.classes[row] > 0]
        assert all(np.abs(steps - c.confidence).min() < 1e-4 for c in result.characters)


def test_the_program_reads_files(recognizer: Recognizer, folder: Path, tmp_path: Path) -> None:
    """Gray, transparent, turned and 16-bit files, whose texts are those of the recognizer."""
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
    paths = [str(IMAGES[0]), *map(str, sorted(tmp_path.iterdir()))]
    command = [sys.executable, str(folder / "read_onnx.py"), *paths]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in printed.splitlines()]
    wanted = [(path, recognizer(path)) for path in paths]
    assert [row[:2] for row in rows] == [[path, result.text] for path, result in wanted]
    found = [float(row[2]) for row in rows]
    np.testing.assert_allclose(found, [result.confidence for _, result in wanted], atol=1e-4)


def test_the_folder_describes_itself(recognizer: Recognizer, folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "model.json", "model.onnx", "read_onnx.py"]
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert described["characters"] == recognizer.model.alphabet.characters
    model = onnx.load(io.BytesIO((folder / "model.onnx").read_bytes()))
    kinds = {node.op_type for node in model.graph.node}
    assert {"Conv", "LSTM"} <= kinds
    assert "BatchNormalization" not in kinds
    assert {node.domain for node in model.graph.node} == {""}
    program = (folder / "read_onnx.py").read_text(encoding="utf-8")
    assert len(program.splitlines()) <= 40


def test_int8_reads_nearly_the_same(
    recognizer: Recognizer, reader: Reader, folder: Path, tmp_path: Path
) -> None:
    images = [pixels(path) for path in IMAGES]
    Int8Format().write(recognizer.model, tmp_path, images[:10])
    outputs, wanted = Int8Format().load(tmp_path)(np.stack(images)), reader(np.stack(images))
    same = np.equal(texts(recognizer, outputs), texts(recognizer, wanted))
    assert same.mean() > 0.9
    assert np.abs(outputs.logits - wanted.logits).mean() < 0.3
    sizes = [(place / "model.onnx").stat().st_size for place in (folder, tmp_path)]
    assert sizes[1] < 0.6 * sizes[0]


def test_int8_needs_images(recognizer: Recognizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="onnx-int8 needs images"):
        Int8Format().write(recognizer.model, tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn_jax.exporting.onnx_format.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx and onnxruntime; .*crnn_jax\[onnx\]"):
        OnnxFormat().load(folder)
