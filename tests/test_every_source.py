"""Training and evaluation with each source, on real captchas in files of each format."""

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
from one_device import evaluate_split, make_eval_step, make_train_step, replicate, shard
from PIL import Image
from tensorflow_datasets.core import registered

from configs import captcha
from crnn_jax.architecture import Architecture
from crnn_jax.data.batching import TrainingBatches, evaluation_batches
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.labels import Labels
from crnn_jax.data.prepared import PreparedSplit, device_arrays
from crnn_jax.data.reader import ImageReader
from crnn_jax.data.sources import load
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.split import Split
from crnn_jax.dataset import load_split
from crnn_jax.errors import DataError
from crnn_jax.experiment import Experiment
from crnn_jax.recognition import jax_backend
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.training import parallel
from tests.test_sources import lmdb_samples
from tests.test_sources import write_lmdb as write_database

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"


def config_for(source: str, directory: Path, **data: object) -> ml_collections.ConfigDict:
    """A narrow network, the same as in tests/test_train.py."""
    config = captcha.get_config()
    config.model.update(name="crnn")
    config.model.channels = (4, 8, 8, 8, 16, 16, 16)
    config.model.hidden = 16
    config.data.update(source=source, dir=str(directory), validation_fraction=0.2, buckets=1)
    config.model.space_to_depth = 1
    config.data.update({"height": 32, **data})
    config.update(batch_size=8, epochs=1, min_steps=0)
    return config


class Steps:
    """One network for all tests. All sources have the same shapes, so it is compiled once."""

    def __init__(self) -> None:
        self.experiment = Experiment.build(config_for("folder", CAPTCHAS))
        model, optimizer = self.experiment.model, self.experiment.optimizer
        self.state = replicate(self.experiment.scratch())
        self.train_step = make_train_step(model, optimizer, seed=0)
        self.eval_step = make_eval_step(model)

    def evaluate(self, prepared: PreparedSplit) -> dict[str, float]:
        variables = self.state.variables
        alphabet = self.experiment.alphabet
        metrics = evaluate_split(self.eval_step, variables, prepared, alphabet, (128,), 8).metrics
        return {key: value for key, value in metrics.items() if "/" not in key != "seconds"}


@pytest.fixture(scope="module")
def steps() -> Steps:
    return Steps()


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


# Not registered, so that it is found by its folder, like data sets made elsewhere.
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
    """Training images in a folder and in a database, test images in a third part."""
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
        "test": {"source": "folder", "dir": str(directory / "test")},
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
        TrainingBatches(
            train, experiment.plan, experiment.buckets, experiment.augmentation, 0, workers=0
        )
    )
    # The step donates the memory of its first argument.
    state = jax.tree.map(jax.numpy.copy, steps.state)
    after, metrics = steps.train_step(state, shard(device_arrays(batch)))
    assert int(after.step[0]) == 1 and float(metrics["loss"][0]) > 0
    test = experiment.splits["test"]
    assert sorted(test.split.labels) == sorted(folder(CAPTCHAS)["test"].labels)
    expected = steps.evaluate(steps.experiment.splits["test"])
    assert steps.evaluate(test) == pytest.approx(expected, rel=1e-5)


def test_a_number_is_not_an_image(tmp_path: Path) -> None:
    named = write_tfds(tmp_path) | {"dir": str(tmp_path), "image_field": "length"}
    with pytest.raises(DataError, match=r"'length' of real_captchas.* not an image; set .*image_f"):
        load(named, 0)


def test_each_part_of_a_mixture_has_its_own_metrics(tmp_path: Path, steps: Steps) -> None:
    """The same as those of each part alone. Some labels are replaced by what the network reads."""
    known = steps.experiment
    variables = steps.state.variables

    def metrics_and_texts(**data: object) -> tuple[dict[str, float], list[str]]:
        config = config_for(str(data.pop("source")), tmp_path, **data)
        test = load_split(config, known.alphabet, known.preprocessing, Architecture().time_steps)
        found = evaluate_split(steps.eval_step, variables, test, known.alphabet, (128,), 8)
        return found.metrics, [text or "" for text in found.texts]

    _, texts = metrics_and_texts(source="folder", dir=str(CAPTCHAS))
    parts: dict[str, dict[str, object]] = {}
    for part, right in (("a", 1), ("b", 3)):  # the number of labels that are replaced
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


def test_evaluation_counts_missing_images_and_unseen_characters_as_wrong(
    tmp_path: Path, steps: Steps
) -> None:
    """In a folder with a test file only."""
    write_tsv(tmp_path / "data")
    (tmp_path / "data" / "train.tsv").unlink()
    shutil.copy(CAPTCHAS / "images" / "00000.png", tmp_path / "data" / "unseen.png")
    with (tmp_path / "data" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("missing.png\t226md\nalso_missing.png\t\nunseen.png\t2é\n")
    # max_dropped is about training images only.
    policies = {"on_unreadable": "drop", "on_empty_label": "drop", "max_dropped": 0.0}
    config = config_for("folder", tmp_path / "data", **policies)
    known = steps.experiment
    test = load_split(config, known.alphabet, known.preprocessing, Architecture().time_steps)
    metrics = steps.evaluate(test)
    before = steps.evaluate(known.splits["test"])
    assert (before["count"], metrics["count"]) == (8, 11)
    # A missing image whose label is empty is not right either.
    assert metrics["exact_match"] * 11 == pytest.approx(before["exact_match"] * 8)
    assert metrics["one_minus_ned"] * 11 < before["one_minus_ned"] * 8 + 1
    # None of the three has a loss, so they do not count in its mean.
    assert metrics["loss"] == pytest.approx(before["loss"])


def test_evaluation_with_labels_outside_the_alphabet(tmp_path: Path, steps: Steps) -> None:
    """A model for Latin letters reads no Chinese label right."""
    write_tsv(tmp_path / "data")
    names = [line.split("\t")[0] for line in (CAPTCHAS / "test.tsv").read_text().splitlines()]
    labels = "".join(f"{name}\t中文\n" for name in names)
    (tmp_path / "data" / "test.tsv").write_text(labels, encoding="utf-8")
    known = steps.experiment
    config = config_for("folder", tmp_path / "data")
    metrics = steps.evaluate(
        load_split(config, known.alphabet, known.preprocessing, Architecture().time_steps)
    )
    assert (metrics["count"], metrics["exact_match"], metrics["loss"]) == (8, 0, 0)


def test_masked_samples_do_not_change_the_gradient(tmp_path: Path, steps: Steps) -> None:
    """An image that vanishes during training, a label of 1,000 characters, an unseen character."""
    write_tsv(tmp_path / "data")
    for index, label in enumerate(("2" * 1000, "2é", "")):
        Image.new("RGB", (1, 50), (index, 0, 0)).save(tmp_path / "data" / f"{index}.png")
        with (tmp_path / "data" / "train.tsv").open("a", encoding="utf-8") as file:
            file.write(f"{index}.png\t{label}\n")
    split = folder(tmp_path / "data")["train"]
    known = steps.experiment
    labels = Labels.encode(split.labels, known.alphabet)
    reader = ImageReader(known.preprocessing, 0)
    prepared = PreparedSplit(split, labels, reader, Architecture().time_steps, max_missing=0.5)
    vanished = tmp_path / "data" / split.names[3]
    vanished.unlink()
    batch = prepared.batch(np.array([0, 1, 2, 3, 4, 32, 33, 34]), (128,))
    assert batch["missing"].tolist() == [False] * 3 + [True] + [False] * 4
    arrays = device_arrays(batch)

    def metrics_of(arrays: dict[str, np.ndarray]) -> list[float]:
        state = jax.tree.map(jax.numpy.copy, steps.state)
        _, metrics = steps.train_step(state, shard(arrays))
        assert int(metrics["skipped_in_row"][0]) == 0
        return [float(metrics[key][0]) for key in ("loss", "gradient_norm")]

    expected = metrics_of(arrays)
    assert np.isfinite(expected).all()
    # Labels that are masked out make no difference, even if they could be aligned.
    others = arrays["label_lengths"].copy(), arrays["label_ids"].copy()
    for array in others:
        array[~batch["mask"]] = 1
    changed = {**arrays, "label_lengths": others[0], "label_ids": others[1]}
    assert metrics_of(changed) == expected
    # The empty label counts; its only path is all blanks.
    losses = parallel.gather(
        steps.eval_step(
            steps.state.variables,
            shard(arrays),
        )
    )["losses"]
    assert ((losses > 0) == [True, True, True, False, True, False, False, True]).all()
    assert batch["mask"].tolist() == [True, True, True, False, True, False, False, True]


@pytest.mark.parametrize("invert", [False, True])
def test_an_image_is_prepared_alike_everywhere(
    monkeypatch: pytest.MonkeyPatch, steps: Steps, invert: bool
) -> None:
    """Training, evaluation and prediction get the same array, bit for bit."""
    known = Experiment.build(config_for("folder", CAPTCHAS, invert=invert))
    train = known.splits["train"]
    trained = next(
        iter(TrainingBatches(train, known.plan, (128,), known.augmentation, 0, workers=0))
    )
    evaluated = {
        int(index): image
        for batch, count in evaluation_batches(train, (128,), 8)
        for index, image in zip(batch["indices"][:count], batch["images"], strict=False)
    }
    variables = parallel.unreplicate(steps.state.variables)
    saved = Preprocessing.from_dict(known.manifest()["preprocessing"])
    assert saved.invert == invert
    described = known.model_description
    model = TrainedModel(0, variables, known.alphabet, saved, described, {})
    seen: list[np.ndarray] = []

    def apply_network(
        network: Any, variables: Any, images: np.ndarray, widths: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        seen.extend(images)
        return np.zeros((len(images), 33, known.alphabet.num_classes)), widths // 4

    monkeypatch.setattr(jax_backend, "apply_network", apply_network)
    Recognizer(model, backend="jax")([train.split.read(int(index)) for index in trained["indices"]])
    for place, index in enumerate(trained["indices"]):
        np.testing.assert_array_equal(trained["images"][place], evaluated[int(index)])
        np.testing.assert_array_equal(trained["images"][place], seen[place])
