"""Each source trains and evaluates on real captchas, as the writer of its format stores them."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from configs import captcha
from crnn_jax.data.batching import evaluation_batches, training_batches
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.prepared import PreparedSplit, device_arrays
from crnn_jax.data.sources import load
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.split import Split
from crnn_jax.dataset import load_test_split
from crnn_jax.errors import DataError
from crnn_jax.evaluate import evaluate, make_eval_step
from crnn_jax.experiment import Experiment
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.train_step import make_train_step
from crnn_jax.training import parallel
from tests.test_sources import lmdb_samples
from tests.test_sources import write_lmdb as write_database

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"


def config_for(source: str, directory: Path, **data: object) -> ml_collections.ConfigDict:
    """A narrow network, that of tests/test_train.py."""
    config = captcha.get_config()
    config.model.update(name="crnn")
    config.model.channels = (4, 8, 8, 8, 16, 16, 16)
    config.model.hidden = 16
    config.data.update(source=source, dir=str(directory), validation_fraction=0.2, buckets=1)
    config.data.update({"height": 32, **data})
    config.update(batch_size=8, epochs=1, min_steps=0)
    return config


class Steps:
    """One network for all: every source has the same shapes, so it is compiled once."""

    def __init__(self) -> None:
        self.experiment = Experiment.build(config_for("folder", CAPTCHAS))
        model, optimizer = self.experiment.model, self.experiment.optimizer
        self.state = parallel.replicate(self.experiment.scratch())
        self.train_step = make_train_step(model, optimizer, seed=0)
        self.eval_step = make_eval_step(model)

    def evaluate(self, prepared: PreparedSplit) -> dict[str, float]:
        variables = self.state.variables
        alphabet = self.experiment.alphabet
        metrics = evaluate(self.eval_step, variables, prepared, alphabet, (128,), 8).metrics
        return {key: value for key, value in metrics.items() if "/" not in key != "seconds"}


@pytest.fixture(scope="module")
def steps() -> Iterator[Steps]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "devices", lambda: jax.local_devices()[:1])
        yield Steps()


def samples(split: Split) -> Iterator[tuple[str, str, bytes]]:
    for index, (name, label) in enumerate(zip(split.names, split.labels, strict=True)):
        yield Path(name).name, label, split.read(index)


def write_tsv(directory: Path) -> dict[str, object]:
    shutil.copytree(CAPTCHAS, directory)
    return {"source": "folder"}


def write_csv(directory: Path) -> dict[str, object]:
    shutil.copytree(CAPTCHAS / "images", directory / "images")
    for name, split in folder(CAPTCHAS).items():
        with (directory / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("filename", "label"))
            writer.writerows((image, label) for image, label, _ in samples(split))
    return {"source": "folder"}


def write_jsonl(directory: Path) -> dict[str, object]:
    shutil.copytree(CAPTCHAS / "images", directory)
    for name, split in folder(CAPTCHAS).items():
        with (directory / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for image, label, _ in samples(split):
                file.write(json.dumps({"file_name": image, "text": label}) + "\n")
    return {"source": "folder"}


def write_file_names(directory: Path) -> dict[str, object]:
    for name, split in folder(CAPTCHAS).items():
        (directory / name).mkdir(parents=True)
        for image, label, data in samples(split):
            (directory / name / f"{label}_{image}").write_bytes(data)
    return {"source": "folder"}


def write_sub_folders(directory: Path) -> dict[str, object]:
    for name, split in folder(CAPTCHAS).items():
        for image, label, data in samples(split):
            (directory / name / label).mkdir(parents=True, exist_ok=True)
            (directory / name / label / image).write_bytes(data)
    return {"source": "folder"}


def write_lmdb(directory: Path) -> dict[str, object]:
    for name, split in folder(CAPTCHAS).items():
        write_database(directory / name, lmdb_samples(split))
    return {"source": "lmdb"}


def write_parquet(directory: Path) -> dict[str, object]:
    (directory / "data").mkdir(parents=True)
    for name, split in folder(CAPTCHAS).items():
        rows = [
            {"photo": {"bytes": data, "path": image}, "words": label}
            for image, label, data in samples(split)
        ]
        file = directory / "data" / f"{name}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=10)
    return {"source": "parquet", "image_field": "photo", "text_field": "words"}


# Not registered, so that it is found by its name in the folder, as data sets from elsewhere are.
with registered.skip_registration():

    class RealCaptchas(tfds.core.GeneratorBasedBuilder):
        """The captchas kept with the tests."""

        VERSION = tfds.core.Version("1.0.0")
        url_infos = None

        def _info(self) -> tfds.core.DatasetInfo:
            image = tfds.features.Image(shape=(50, 200, 1), encoding_format="png")
            features = {"photo": image, "words": tfds.features.Text(), "length": np.int32}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager: object) -> dict[str, Any]:
            del dl_manager
            return {name: self._generate_examples(name) for name in ("train", "test")}

        def _generate_examples(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
            for image, label, data in samples(folder(CAPTCHAS)[name]):
                features = {"photo": io.BytesIO(data), "words": label, "length": len(label)}
                yield image, features


def write_tfds(directory: Path) -> dict[str, object]:
    RealCaptchas(data_dir=directory, file_format="array_record").download_and_prepare()
    return {
        "source": "tfds",
        "variant": "real_captchas",
        "image_field": "photo",
        "text_field": "words",
    }


def write_mixture(directory: Path) -> dict[str, object]:
    """Half of the training images in a folder, half in a database, a third part to test with."""
    for name, split in folder(CAPTCHAS).items():
        if name == "train":
            write_database(directory / "half" / "train", lmdb_samples(split.select(range(16))))
            split = split.select(range(16, 32))
        shutil.copytree(CAPTCHAS / "images", directory / name)
        lines = [f"{image}\t{label}\n" for image, label, _ in samples(split)]
        (directory / name / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    parts = {
        "rest": {"source": "folder", "dir": str(directory / "train"), "weight": 0.5},
        "half": {"source": "lmdb", "dir": str(directory / "half")},
        "judge": {"source": "folder", "dir": str(directory / "test")},
    }
    return {"source": "mixture", "parts": parts}


@pytest.mark.parametrize(
    "write",
    [
        write_tsv,
        write_csv,
        write_jsonl,
        write_file_names,
        write_sub_folders,
        write_lmdb,
        write_parquet,
        write_tfds,
        write_mixture,
    ],
)
def test_trains_a_step_and_evaluates(
    write: Callable[[Path], dict[str, object]], tmp_path: Path, steps: Steps
) -> None:
    data = write(tmp_path / "data")
    config = config_for(str(data.pop("source")), tmp_path / "data", **data)
    experiment = Experiment.build(config)
    assert experiment.alphabet == steps.experiment.alphabet
    train = experiment.splits["train"]
    batch = next(
        training_batches(
            train, experiment.plan, experiment.buckets, experiment.augmentation, 0, workers=0
        )
    )
    # The step gives its first argument's memory away.
    state = jax.tree.map(jax.numpy.copy, steps.state)
    after, metrics = steps.train_step(state, parallel.shard(device_arrays(batch)))
    assert int(after.step[0]) == 1 and float(metrics["loss"][0]) > 0
    test = experiment.splits["test"]
    assert sorted(test.split.labels) == sorted(folder(CAPTCHAS)["test"].labels)
    expected = steps.evaluate(steps.experiment.splits["test"])
    assert steps.evaluate(test) == pytest.approx(expected, rel=1e-5)


def test_a_number_is_no_image(tmp_path: Path) -> None:
    named = write_tfds(tmp_path) | {"dir": str(tmp_path), "image_field": "length"}
    with pytest.raises(DataError, match=r"'length' of real_captchas.* no image; set .*image_f"):
        load(named, 0)


def test_each_part_of_a_mixture_has_its_own_metrics(tmp_path: Path, steps: Steps) -> None:
    """Against each part evaluated alone; with texts of which the network reads some."""
    known = steps.experiment
    variables = steps.state.variables

    def metrics_and_texts(**data: object) -> tuple[dict[str, float], list[str]]:
        config = config_for(str(data.pop("source")), tmp_path, **data)
        test = load_test_split(config, known.alphabet, known.preprocessing)
        found = evaluate(steps.eval_step, variables, test, known.alphabet, (128,), 8)
        return found.metrics, found.texts

    _, texts = metrics_and_texts(source="folder", dir=str(CAPTCHAS))
    parts: dict[str, dict[str, object]] = {}
    for part, right in (("a", 1), ("b", 3)):  # so many labels are what is read
        directory = tmp_path / part
        shutil.copytree(CAPTCHAS / "images", directory)
        lines = (CAPTCHAS / "test.tsv").read_text(encoding="utf-8").splitlines()
        names = [line.split("\t")[0].removeprefix("images/") for line in lines]
        labels = [*texts[:right], *(line.split("\t")[1] for line in lines[right:])]
        rows = [f"{name}\t{label}\n" for name, label in zip(names, labels, strict=True)]
        (directory / "test.tsv").write_text("".join(rows[: 4 + right]), encoding="utf-8")
        parts[part] = {"source": "folder", "dir": str(directory)}
    drop = {"on_empty_label": "drop"}
    mixed, _ = metrics_and_texts(source="mixture", parts=parts, **drop)
    assert mixed["count"] == 5 + 7
    assert [mixed[f"exact_match/{part}"] for part in parts] == [1 / 5, 3 / 7]
    for part, settings in parts.items():
        alone, _ = metrics_and_texts(**settings, **drop)
        for key in ("exact_match", "exact_match_caseless", "cer"):
            assert mixed[f"{key}/{part}"] == alone[key]


def test_evaluation_counts_what_cannot_be_read_as_wrong(tmp_path: Path, steps: Steps) -> None:
    """On a folder with a test file alone."""
    write_tsv(tmp_path / "data")
    (tmp_path / "data" / "train.tsv").unlink()
    shutil.copy(CAPTCHAS / "images" / "00000.png", tmp_path / "data" / "unseen.png")
    with (tmp_path / "data" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("missing.png\t226md\nalso_missing.png\t\nunseen.png\t2é\n")
    # That nothing may be dropped of what is trained on is no matter here.
    policies = {"on_unreadable": "drop", "on_empty_label": "drop", "max_dropped": 0.0}
    config = config_for("folder", tmp_path / "data", **policies)
    known = steps.experiment
    test = load_test_split(config, known.alphabet, known.preprocessing)
    metrics = steps.evaluate(test)
    before = steps.evaluate(known.splits["test"])
    assert (before["count"], metrics["count"]) == (8, 11)
    # An unreadable image without a text is not right either, though nothing was read in it.
    assert metrics["exact_match"] * 11 == pytest.approx(before["exact_match"] * 8)
    assert metrics["one_minus_ned"] * 11 < before["one_minus_ned"] * 8 + 1


def test_evaluation_where_no_label_can_be_written(tmp_path: Path, steps: Steps) -> None:
    """A model of Latin letters on Chinese labels reads nothing right, and says so."""
    write_tsv(tmp_path / "data")
    names = [line.split("\t")[0] for line in (CAPTCHAS / "test.tsv").read_text().splitlines()]
    labels = "".join(f"{name}\t中文\n" for name in names)
    (tmp_path / "data" / "test.tsv").write_text(labels, encoding="utf-8")
    known = steps.experiment
    config = config_for("folder", tmp_path / "data")
    metrics = steps.evaluate(load_test_split(config, known.alphabet, known.preprocessing))
    assert (metrics["count"], metrics["exact_match"], metrics["loss"]) == (8, 0, 0)


def test_what_cannot_be_learned_moves_no_gradient(tmp_path: Path, steps: Steps) -> None:
    """Images that vanish in mid-epoch, a label of 1,000 characters, images 1 px wide."""
    write_tsv(tmp_path / "data")
    for index, label in enumerate(("2" * 1000, "2é", "")):
        Image.new("RGB", (1, 50), (index, 0, 0)).save(tmp_path / "data" / f"{index}.png")
        with (tmp_path / "data" / "train.tsv").open("a", encoding="utf-8") as file:
            file.write(f"{index}.png\t{label}\n")
    split = folder(tmp_path / "data")["train"]
    known = steps.experiment
    prepared = PreparedSplit(
        split, known.alphabet, known.preprocessing, 0, "train", max_missing=0.5
    )
    vanished = tmp_path / "data" / split.names[3]
    vanished.unlink()
    batch = prepared.batch(np.array([0, 1, 2, 3, 4, 32, 33, 34]), (128,))
    assert batch["missing"].tolist() == [False] * 3 + [True] + [False] * 4
    state = jax.tree.map(jax.numpy.copy, steps.state)
    state, metrics = steps.train_step(state, parallel.shard(device_arrays(batch)))
    assert np.isfinite(metrics["loss"]).all() and np.isfinite(metrics["gradient_norm"]).all()
    assert int(metrics["skipped_in_row"][0]) == 0
    # The empty label counts: nothing but blanks is what is to be written for it.
    losses = parallel.gather(
        steps.eval_step(
            steps.state.variables,
            parallel.shard(device_arrays(batch)),
        )
    )["losses"]
    assert ((losses > 0) == [True, True, True, False, True, False, False, True]).all()


@pytest.mark.parametrize("invert", [False, True])
def test_an_image_is_prepared_alike_everywhere(
    monkeypatch: pytest.MonkeyPatch, steps: Steps, invert: bool
) -> None:
    """Training, evaluation and prediction see the same array, bit for bit."""
    known = Experiment.build(config_for("folder", CAPTCHAS, invert=invert))
    train = known.splits["train"]
    trained = next(
        iter(training_batches(train, known.plan, (128,), known.augmentation, 0, workers=0))
    )
    evaluated = {
        int(index): image
        for batch, count in evaluation_batches(train, (128,), 8)
        for index, image in zip(batch["indices"][:count], batch["images"], strict=False)
    }
    variables = parallel.unreplicate(steps.state.variables)
    saved = Preprocessing.from_dict(known.manifest()["preprocessing"])
    assert saved.invert == invert
    model = TrainedModel(0, known.model, variables, known.alphabet, saved, {}, {})
    recognizer = Recognizer(model)
    seen: list[np.ndarray] = []

    def best_path(images: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, ...]:
        seen.extend(images)
        return np.zeros((len(images), 33), int), widths // 4, np.ones(len(images))

    monkeypatch.setattr(recognizer, "_best_path", best_path)
    recognizer([train.split.read(int(index)) for index in trained["indices"]])
    for place, index in enumerate(trained["indices"]):
        np.testing.assert_array_equal(trained["images"][place], evaluated[int(index)])
        np.testing.assert_array_equal(trained["images"][place], seen[place])
