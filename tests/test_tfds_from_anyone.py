"""TFDS folders from anyone: they run no code, and damage is named."""

import contextlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from crnn_jax.data.sources import load
from crnn_jax.data.sources.tfds_folder import check_folder
from crnn_jax.errors import DataError

RECORDS = "generated_captcha-test.array_record-00000-of-00001"


def settings(data_dir: Path, source: str = "tfds") -> dict[str, object]:
    """Of four captchas and a test split: drawn here, or read from a folder from anyone."""
    variant = {"tfds": "generated_captcha/tiny_4:3.0.0", "generated": "tiny/4"}[source]
    fields = {"image_field": "image", "text_field": "text"}
    return {"source": source, "dir": str(data_dir), "variant": variant, **fields}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    load(settings(folder, "generated"), 0)
    return folder


@pytest.fixture
def data_dir(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def version(data_dir: Path) -> Path:
    return data_dir / "generated_captcha" / "tiny_4" / "3.0.0"


def rewrite(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# --- code ---


@pytest.fixture
def payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A class of a module that can be imported."""
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "payload.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield "stranger.payload.Text"
    forget()


def forget() -> None:
    for name in ("stranger", "stranger.payload"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "place",
    [
        "feature",
        "other spelling",
        "text that is JSON",
        "old file",
        "old text",
        "dictionary",
    ],
)
def test_no_code_is_run(place: str, payload: str, data_dir: Path) -> None:
    """In no place from which TFDS alone would run it."""
    file = version(data_dir) / "features.json"
    features = json.loads(file.read_text())
    dictionary = features["pythonClassName"]
    inner = {"pythonClassName": payload, "text": {}}
    if place == "feature":
        features["featuresDict"]["features"]["text"] = inner
    elif place == "other spelling":
        features["featuresDict"]["features"]["text"] = {"python_class_name": payload, "text": {}}
    elif place == "text that is JSON":
        text = json.dumps({"text": inner})
        features = {"pythonClassName": dictionary, "jsonFeature": {"json": text}}
    elif place == "old file":
        old = {"type": payload, "content": {}}
        features = {"type": dictionary, "content": {"text": old}}
    elif place == "old text":
        proto = "tensorflow_datasets.FeaturesDict"
        text = json.dumps({"features": {"text": inner}})
        features = {"type": dictionary, "content": text, "proto_cls": proto}
    else:
        features["pythonClassName"] = payload
    file.write_text(json.dumps(features))
    with pytest.raises(DataError, match=rf"features.json' names the feature '{payload}', .* not"):
        load(settings(data_dir), 0)
    assert "stranger" not in sys.modules
    with contextlib.suppress(ValueError):
        tfds.features.FeatureConnector.from_json(features)
    assert "stranger.payload" in sys.modules


def test_all_features_of_tfds_are_allowed(tmp_path: Path) -> None:
    """As TFDS writes them now, and as it did before. Video and Audio need TensorFlow."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
            "type": tfds.features.Sequence({"box": tfds.features.BBoxFeature()}),
            "text": tfds.features.Translation(["de", "en"]),
            "both": tfds.features.LabeledImage(labels=2),
            "words": tfds.features.TranslationVariableLanguages(["de", "en"]),
            "number": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "numbers": tfds.features.Dataset({"number": tfds.features.Scalar(np.int32)}),
        }
    )
    features.save_config(str(tmp_path))
    check_folder(tmp_path)
    old = features.to_json()
    old["content"] = {name: feature.to_json() for name, feature in features.items()}
    (tmp_path / "features.json").write_text(json.dumps(old))
    check_folder(tmp_path)
    renamed = {"type": "tensorflow_datasets.core.features.feature.Tensor", "content": {}}
    (tmp_path / "features.json").write_text(json.dumps(renamed))
    check_folder(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("huggingface:mnist", "stranger:payload", "stranger.payload", "../payload", "/etc/passwd"),
        *("generated_captcha/..", "generated_captcha/tiny/../..:1.0.0", "generated_captcha:../.."),
        *("mnist/data_dir=/etc", "https://example.org/x", "gs://bucket/x", ""),
    ],
)
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not the name of a TFDS data set; write name, name/con"):
        load(settings(tmp_path) | {"variant": name}, 0)


class Extra(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two images and a text; only the first image is one."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        image, text = tfds.features.Image(encoding_format="png"), tfds.features.Text()
        features = {"image": image, "other": image, "text": text}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[Any]]:
        return {"test": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield 0, {"image": b"first", "other": b"no image", "text": "a"}


def test_only_the_two_features_are_decoded(tmp_path: Path) -> None:
    """Not images or videos that nobody has asked for."""
    Extra(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    split = load(settings(tmp_path) | {"variant": "extra:1.0.0"}, 0)["test"]
    assert (split.read(0), split.labels) == (b"first", ("a",))


# --- files that are none, and links ---


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs of POSIX")
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "metadata.json", RECORDS])
@pytest.mark.parametrize("source", ["tfds", "generated"])
def test_a_pipe_is_not_waited_for(source: str, name: str, data_dir: Path) -> None:
    file = version(data_dir) / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    with pytest.raises(DataError, match=rf"cannot read '.*{name}' .*not a regular file"):
        load(settings(data_dir, source), 0)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "text.labels.txt"])
def test_a_file_that_would_fill_the_memory_is_not_read(name: str, data_dir: Path) -> None:
    with (version(data_dir) / name).open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(DataError, match=rf"cannot read '.*{name}' .*21,474,836,480 bytes, more"):
        load(settings(data_dir), 0)


@pytest.mark.parametrize("name", ["features.json", RECORDS, "."])
def test_no_link_leads_out_of_the_folder(
    name: str, drawn: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = version(data_dir) / name
    if name == ".":
        shutil.rmtree(place)
    else:
        place.unlink()
    place.symlink_to(version(drawn) / name)
    with pytest.raises(DataError, match=r"is a link out of the folder .*CRNN_JAX_TRUSTED=1"):
        load(settings(data_dir), 0)
    monkeypatch.setenv("CRNN_JAX_TRUSTED", "1")
    assert len(load(settings(data_dir), 0)["test"]) == 64


def test_no_name_of_records_leads_out_of_the_folder(drawn: Path, data_dir: Path) -> None:
    elsewhere = os.path.relpath(version(drawn), version(data_dir))

    def change(info: Any) -> None:
        for split in info["splits"]:
            split["filepathTemplate"] = f"{elsewhere}/{split['filepathTemplate']}"

    rewrite(version(data_dir) / "dataset_info.json", change)
    with pytest.raises(DataError, match=r"is a link out of the folder"):
        load(settings(data_dir), 0)


def test_too_deep_json(data_dir: Path) -> None:
    (version(data_dir) / "features.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(DataError, match=r"cannot read '.*features.json'"):
        load(settings(data_dir), 0)


# --- damage ---


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[3_000] ^= 4
    file.write_bytes(data)


def count(info: Any, images: int) -> None:
    info["splits"][-1]["shardLengths"] = [str(images)]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit is flipped": lambda folder: flip(folder / RECORDS),
    "records are cut": lambda folder: os.truncate(folder / RECORDS, 20_000),
    "records are empty": lambda folder: os.truncate(folder / RECORDS, 0),
    "records are gone": lambda folder: (folder / RECORDS).unlink(),
    "more images are promised": lambda folder: rewrite(
        folder / "dataset_info.json", lambda info: count(info, 10**12)
    ),
    "no images are promised": lambda folder: rewrite(
        folder / "dataset_info.json", lambda info: count(info, 0)
    ),
    "no splits are known": lambda folder: rewrite(
        folder / "dataset_info.json", lambda info: info.pop("splits")
    ),
    "no JSON": lambda folder: (folder / "dataset_info.json").write_text("{"),
}
OF_GENERATED: dict[str, Callable[[Path], object]] = {
    "fewer images are promised": lambda folder: rewrite(
        folder / "dataset_info.json", lambda info: count(info, 63)
    ),
    "another version": lambda folder: rewrite(
        folder / "dataset_info.json", lambda info: info.update(version="3.0.1")
    ),
    "nothing is known": lambda folder: (folder / "dataset_info.json").unlink(),
}


@pytest.mark.parametrize("damage", [*DAMAGE, *OF_GENERATED])
def test_damage_of_what_was_drawn_is_named_and_mended(damage: str, data_dir: Path) -> None:
    folder = version(data_dir)
    (DAMAGE | OF_GENERATED)[damage](folder)
    remedy = f"remove the folder {str(folder)!r}, and the next start prepares it again"
    with pytest.raises(DataError, match=rf"is damaged \(.*\); {remedy}$"):
        load(settings(data_dir, "generated"), 0)


def test_what_was_removed_is_drawn_again(drawn: Path, data_dir: Path) -> None:
    shutil.rmtree(version(data_dir))
    again = load(settings(data_dir, "generated"), 0)["test"]
    assert again.facts == load(settings(drawn, "generated"), 0)["test"].facts


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_what_was_copied_is_named(damage: str, data_dir: Path) -> None:
    DAMAGE[damage](version(data_dir))
    with pytest.raises(
        DataError, match=rf"copy the folder '{version(data_dir)}' again|TFDS cannot|has no splits"
    ):
        load(settings(data_dir), 0)


@pytest.mark.parametrize("source", ["tfds", "generated"])
def test_damage_that_appears_later_is_named(source: str, data_dir: Path) -> None:
    """When an image is read in training."""
    split = load(settings(data_dir, source), 0)["test"]
    split = pickle.loads(pickle.dumps(split))  # opens the file again, as a worker does
    flip(version(data_dir) / RECORDS)
    with pytest.raises(
        DataError, match=r"image test/\d{5} of a TFDS data set is damaged \(.*folder"
    ):
        for index in range(64):
            split.read(index)


def test_what_a_killed_process_has_left_is_removed(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But nothing of other data sets; and standard output stays for results."""
    shutil.rmtree(version(data_dir))
    left = version(data_dir).parent / "incomplete.4X0QZ7_3.0.0"
    others = (left.with_name("incomplete.4X0QZ7_9.0.0"), left.with_name("incomplete.mine"))
    for folder in (left, *others):
        folder.mkdir()
        (folder / RECORDS).write_bytes(b"half")
    load(settings(data_dir, "generated"), 0)
    assert not left.exists() and all((folder / RECORDS).exists() for folder in others)
    assert capsys.readouterr().out == ""
