"""Evaluating a saved model: on what it was trained with, unless other images are named."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
from one_device import ONE_DEVICE, evaluate
from PIL import Image

import crnn_jax
from crnn_jax import main
from crnn_jax.commands import override, parse_flags
from crnn_jax.errors import CheckpointError, ConfigError
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.reports.writing import read_report
from crnn_jax.run_data import config_of
from crnn_jax.scoring import evaluate_model
from tests.test_recipes import GOLDEN, with_config


def images(folder: Path, *labels: str) -> Path:
    """A folder of images that are named after their labels, in digits, as the model reads them."""
    folder.mkdir()
    for shade, label in enumerate(labels):
        Image.new("L", (64, 32), 10 * shade).save(folder / f"{label}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ten images two are test images and one is a validation image."""
    return images(tmp_path_factory.mktemp("images") / "own", *(f"{n}{n + 1}" for n in range(1, 11)))


def run(tmp_path: Path, data: dict[str, Any]) -> Path:
    """A run of an older version, which had few of the settings that there are now."""
    return with_config(tmp_path, {"seed": 3, "batch_size": 8, "data": data})


def test_a_model_is_evaluated_on_what_it_was_trained_with(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"source": "folder", "dir": str(folder), "validation_fraction": 0.125, "height": 64}
    workdir = run(tmp_path, data)
    assert crnn_jax.get_config("captcha").data.source != "folder"
    for split, count in (("test", 2), ("validation", 1)):
        with caplog.at_level(logging.WARNING):
            metrics = evaluate(str(workdir), split=split, step=12)
        assert {key: metrics[key] for key in ("step", "split", "source", "directory", "count")} == {
            **{"step": 12, "split": split, "source": "folder", "directory": str(folder)},
            "count": count,
        }
    assert not caplog.records


def test_confident_texts_are_accepted_if_the_model_is_calibrated(
    folder: Path, tmp_path: Path
) -> None:
    model = TrainedModel.load(run(tmp_path, {"source": "folder", "dir": str(folder)}))
    for least, accepted in ((None, 0), (0.0, 1), (1.0, 0)):
        known = dataclasses.replace(model, calibration=Calibration(-3.0, 1.0, least))
        found = evaluate_model(known, config_of(known), "test", ONE_DEVICE)
        assert (found["min_confidence"], found["accepted"]) == (least, accepted)
        assert found["accepted_exact_match"] == (found["exact_match"] if accepted else None)
        assert 0 <= found["ece"] < found["ece_uncalibrated"]  # it is sure of wrong texts


def test_other_data_is_a_folder_or_a_config(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = run(tmp_path, {"source": "generated", "dir": "", "variant": "lower"})
    other = images(tmp_path / "other", "12", "34", "56", "78", "90")
    config = crnn_jax.get_config("captcha")
    config.data.update(source="folder", dir=str(other))
    for data in (other, config):
        metrics = evaluate(workdir, data)
        assert (metrics["directory"], metrics["count"]) == (str(other), 1)
    said = f"{workdir} was trained with other data: generated lower"
    assert caplog.messages.count(said) == 2


def test_a_report_is_written_where_it_is_wanted(folder: Path, tmp_path: Path) -> None:
    workdir = run(tmp_path, {"source": "folder", "dir": str(folder), "height": 64})
    assert "report" not in evaluate(workdir) and not (workdir / "report").exists()
    metrics = evaluate(workdir, caseless=True, report=tmp_path / "a" / "b")
    assert metrics["report"] == str(tmp_path / "a" / "b" / "index.html")
    report = read_report(tmp_path / "a" / "b" / "report.json")
    assert (report.headline.exact.value, report.headline.cer) == (
        *(metrics["exact_match"], metrics["cer"]),
    )
    assert report.run.options == {"caseless": "True"}
    assert report.images == report.model.trained_on == f"folder {folder}"
    assert not (workdir / "README.md").exists()  # what it was trained on was not read
    evaluate(workdir, same_source=True, report=tmp_path / "c")
    assert read_report(tmp_path / "c" / "report.json").run.options == {"same_source": "True"}


def test_the_parts_of_a_mixture_can_be_elsewhere(folder: Path, tmp_path: Path) -> None:
    parts = {"a": {"source": "folder", "dir": str(folder)}, "b": {"source": "folder", "dir": "b"}}
    workdir = run(tmp_path, {"source": "mixture", "dir": "", "parts": parts})
    config = config_of(TrainedModel.load(workdir))
    assert (config.seed, config.batch_size) == (3, 8)
    other = images(tmp_path / "other", "12", "34", "56", "78", "90")
    override(config, ["main.py", f"--config.data.parts.b.dir={other}"])
    metrics = evaluate(workdir, config)
    assert metrics["count"] == 3
    described = [(name, part["directory"]) for name, part in metrics["parts"].items()]
    assert described == [("a", str(folder)), ("b", str(other))]


def test_another_source_does_not_look_into_the_folder_of_the_run(
    folder: Path, tmp_path: Path
) -> None:
    """Else captchas would be drawn among a user's images."""
    workdir = run(tmp_path, {"source": "parquet", "dir": str(folder)})
    command_line = ["main", "--mode=eval", f"--workdir={workdir}", "--config.data.source=folder"]
    with pytest.raises(ConfigError, match=r"set --config\.data\.dir"):
        main.main(parse_flags(main.FLAGS, command_line))


@pytest.mark.parametrize("model", ["captcha", GOLDEN], ids=["pretrained", "no data"])
def test_a_model_that_does_not_say_asks_for_images(model: str | Path) -> None:
    with pytest.raises(ConfigError, match=f"^{model} does not say .*--config.data.dir=DIR"):
        evaluate(model)


def test_a_split_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="no split 'valid'; choose from train, validation, test"):
        evaluate(GOLDEN, split="valid")


@pytest.mark.parametrize("data", [5, {"parts": 5}, {"source": 5}, {"buckets": "x"}])
def test_a_manifest_without_a_usable_config(data: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no usable config .*use an undamaged checkpoint"):
        config_of(TrainedModel.load(run(tmp_path, data)))
