"""Mixtures: the images of their parts, how often each part is drawn, and messages about parts."""

import multiprocessing
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pytest

from configs import captcha
from crnn_jax.data.batching import TrainingPlan
from crnn_jax.data.buckets import choose_buckets
from crnn_jax.data.sources import load, load_splits
from crnn_jax.data.sources.folder import folder
from crnn_jax.data.sources.split import join
from crnn_jax.dataset import check_dataset, load_dataset
from crnn_jax.errors import ConfigError, DataError
from tests.test_sources import lmdb_samples, write_lmdb

CAPTCHAS = Path(__file__).parent / "data" / "captcha_keras_v2"
REAL = {"source": "folder", "dir": str(CAPTCHAS)}


def settings(**parts: dict[str, Any]) -> ml_collections.ConfigDict:
    data = captcha.get_config().data
    data.update(source="mixture", parts=parts, validation_fraction=0.25, test_fraction=0.25)
    return data


# --- images ---


def test_joined_splits_are_concatenated() -> None:
    real = folder(CAPTCHAS)
    joined = join({"a": real["test"], "b": real["train"].select([4, 2]), "c": real["test"]})
    assert len(joined) == 8 + 2 + 8
    assert joined.parts == ("a",) * 8 + ("b",) * 2 + ("c",) * 8
    assert joined.names[8] == f"b:{real['train'].names[4]}"
    expected = [real["test"].read(i) for i in range(8)]
    expected += [real["train"].read(4), real["train"].read(2), *expected]
    assert [joined.read(i) for i in range(18)] == expected
    assert joined.labels[10:] == real["test"].labels
    some = joined.select([17, 8, 0])
    assert (some.parts, some.read(0)) == (("c", "b", "a"), expected[17])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(some.read, (1,)) == expected[8]


def test_each_part_is_split_by_its_own_settings(tmp_path: Path) -> None:
    real = folder(CAPTCHAS)
    write_lmdb(tmp_path / "whole", lmdb_samples(real["train"]))
    write_lmdb(tmp_path / "training" / "train", lmdb_samples(real["train"]))
    lmdb = {"source": "lmdb", "dir": str(tmp_path / "whole")}
    parts = {
        "both": REAL,
        "whole": lmdb,
        "trained": lmdb | {"test_fraction": 0.0, "validation_fraction": 0.0},
        "trained_too": REAL | {"test_fraction": 0.0},
        "train_alone": {"source": "lmdb", "dir": str(tmp_path / "training")},
        "test_only": lmdb | {"weight": 0.0},
        "test_too": REAL | {"weight": 0.0},
    }
    splits = load_splits(settings(**parts), 0)
    assert list(splits) == ["train", "validation", "test"]
    sizes = {name: dict(Counter(split.parts)) for name, split in splits.items()}
    # A quarter of 32 is 8.
    assert sizes == {
        "train": {"both": 24, "whole": 18, "trained": 32, "trained_too": 24, "train_alone": 24},
        "validation": {"both": 8, "whole": 6, "trained_too": 8, "train_alone": 8},
        "test": {"both": 8, "whole": 8, "test_only": 32, "test_too": 8},
    }
    assert load(settings(**parts), 0)["test"].names == splits["test"].names
    # The same images are drawn from a part as from its source alone.
    data = settings(**parts)
    data.update(REAL)
    alone = load_splits(data, 0)["validation"]
    mine = splits["validation"].select(
        np.flatnonzero(np.array(splits["validation"].parts) == "both")
    )
    assert mine.labels == alone.labels


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ({"source": "folder", "dir": "/nowhere"}, DataError, r"no folder '/nowhere'; check"),
        ({"source": "folder"}, ConfigError, r"needs a folder; set --config\.data\.dir=DIR"),
        ({"source": "web"}, ConfigError, r"unknown data source 'web'"),
    ],
)
def test_errors_name_the_part(part: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"^data\.parts\.odd: .*{message}"):
        load(settings(fine=REAL, odd=part), 0)


def test_a_part_for_which_nothing_is_left(tmp_path: Path) -> None:
    for name, left in (("train", {"weight": 0.0}), ("test", {"test_fraction": 0.0})):
        shutil.copytree(CAPTCHAS, tmp_path / name)
        (tmp_path / name / f"{'test' if name == 'train' else 'train'}.tsv").unlink()
        part = {"source": "folder", "dir": str(tmp_path / name), **left}
        with pytest.raises(
            DataError, match=rf"parts\.odd: a {next(iter(left))} of 0 leaves no images"
        ):
            load(settings(odd=part), 0)


def config_for(**parts: dict[str, Any]) -> ml_collections.ConfigDict:
    config = captcha.get_config()
    config.data = settings(**parts)
    return config


def test_the_data_checks_and_the_policies_see_all_parts(tmp_path: Path) -> None:
    other = Path(shutil.copytree(CAPTCHAS, tmp_path / "other"))
    lines = (other / "train.tsv").read_text(encoding="utf-8").splitlines()
    changed = [line.split("\t")[0] + "\tZ" + line.split("\t")[1][1:] for line in lines]
    (other / "train.tsv").write_text("\n".join([*changed, "lost.png\tZ\n"]), encoding="utf-8")
    (other / "lost.png").write_bytes(b"no image")
    config = config_for(real=REAL, other={"source": "folder", "dir": str(other)})
    report = check_dataset(config)
    assert report.alphabet.characters == "2345678Zbcdefgmnpwxy"  # of both
    assert [line.split() for line in report.lines()[1:4]] == [
        ["part", "train", "validation", "test"],
        ["other", "25", "8", "8"],
        ["real", "24", "8", "8"],
    ]
    assert not report.train_command
    findings = {finding.kind: finding for finding in report.findings}
    assert "other:lost.png" in findings["unreadable image"].samples[0]
    assert len(findings["two labels"].samples) == 32
    assert "other:images/" in findings["two labels"].samples[0]
    assert "real:images/" in findings["two labels"].samples[0]
    with pytest.raises(DataError, match=r"other:lost\.png.*check_data with the same --config"):
        load_dataset(config)
    config.data.on_unreadable = "drop"
    train = load_dataset(config).splits["train"]
    kept = Counter(train.split.parts)
    assert kept["real"] == 24 and kept["other"] in (24, 25)  # it may be a validation image
    assert "other:lost.png" not in train.split.names


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({"a": REAL | {"test_fraction": 0.0}}, "test images; .*test_fraction of a part above 0"),
        ({"a": REAL | {"validation_fraction": 0.0}}, "validation images; .*validation_fraction"),
    ],
)
def test_a_mixture_without_a_split(parts: dict[str, Any], missing: str) -> None:
    with pytest.raises(DataError, match=f"no {missing}"):
        load_dataset(config_for(**parts))


# --- the plan ---


def mixed_plan(
    sizes: dict[str, int], weights: dict[str, float], batch_size: int, epochs: int, seed: int = 0
) -> tuple[TrainingPlan, np.ndarray]:
    """A plan for images of random widths, and the part of each image."""
    parts = [name for name, size in sizes.items() for _ in range(size)]
    widths = np.random.default_rng(1).integers(8, 400, len(parts)).astype(np.int32)
    buckets = choose_buckets(widths, 3)
    plan = TrainingPlan(widths, buckets, batch_size, epochs, seed, parts, weights)
    return plan, np.array(parts)


def drawn(plan: TrainingPlan, first: int, last: int) -> np.ndarray:
    """The samples of the epochs from `first` on and before `last`."""
    steps = range(first * plan.steps_per_epoch, last * plan.steps_per_epoch)
    return np.concatenate([plan[step] for step in steps])


def test_weights_are_the_shares_of_what_is_drawn() -> None:
    sizes, weights = {"a": 300, "b": 90, "c": 10}, {"a": 1.0, "b": 2.5, "c": 0.5}
    plan, parts = mixed_plan(sizes, weights, 8, 6)
    assert plan.steps_per_epoch == 400 // 8  # as many samples as there are images
    for epoch in range(6):
        counts = Counter(parts[drawn(plan, epoch, epoch + 1)].tolist())
        for name, weight in weights.items():
            assert abs(counts[name] - 400 * weight / 4) <= 1.01


@pytest.mark.parametrize(
    ("sizes", "weights", "batch_size"),
    [
        # 40 samples an epoch, 20 of each part: each of b twice, each of a twice in three epochs.
        ({"a": 30, "b": 10}, {"a": 1.0, "b": 1.0}, 4),
        # 16 of 31 samples an epoch. The 15 others are the first of the next one.
        ({"a": 20, "b": 11}, {"a": 1.0, "b": 1.0}, 16),
        ({"a": 20, "b": 11}, {"a": 1.0, "b": 3.0}, 16),
        ({"a": 31}, {"a": 1.0}, 16),
    ],
)
def test_a_part_is_used_up_before_it_starts_again(
    sizes: dict[str, int], weights: dict[str, float], batch_size: int
) -> None:
    """At the end of each epoch no sample of a part is more than one use ahead of another."""
    plan, parts = mixed_plan(sizes, weights, batch_size, 12)
    for epoch in range(12):
        times = Counter(drawn(plan, 0, epoch + 1).tolist())
        assert sum(times.values()) == (epoch + 1) * plan.steps_per_epoch * batch_size
        for name in sizes:
            of_part = [times[index] for index in np.flatnonzero(parts == name)]
            assert max(of_part) - min(of_part) <= 1


def test_parts_share_batches_and_batches_share_a_bucket() -> None:
    plan, parts = mixed_plan({"a": 200, "b": 200}, {"a": 1.0, "b": 1.0}, 8, 1)
    batches = [plan[step] for step in range(len(plan))]
    assert sum(len(set(parts[batch])) == 2 for batch in batches) > 0.9 * len(batches)
    assert sum(len(set(plan.buckets[batch])) > 1 for batch in batches) < 3


def test_a_mixed_step_does_not_depend_on_the_steps_asked_for_before() -> None:
    sizes, weights = {"a": 50, "b": 20}, {"a": 1.0, "b": 3.0}
    plan, _ = mixed_plan(sizes, weights, 4, 3, seed=5)
    expected = [plan[step].tolist() for step in range(len(plan))]
    again, _ = mixed_plan(sizes, weights, 4, 3, seed=5)
    for step in np.random.default_rng(0).permutation(len(plan)):
        assert again[step].tolist() == expected[step]
    other, _ = mixed_plan(sizes, weights, 4, 3, seed=6)
    assert [other[step].tolist() for step in range(len(plan))] != expected


def test_parts_of_one_size_are_shuffled_apart() -> None:
    plan, _ = mixed_plan({"a": 64, "b": 64}, {"a": 1.0, "b": 1.0}, 128, 4)
    for epoch in range(4):
        samples = drawn(plan, epoch, epoch + 1)
        places = np.argsort(samples)
        assert sorted(samples.tolist()) == list(range(128))
        # The parts take turns, so both would have the same order if they had the same shuffle.
        assert (np.argsort(places[:64]) != np.argsort(places[64:])).any()
