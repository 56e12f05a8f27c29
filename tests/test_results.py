"""The table of results says what the metrics of the runs say."""

import json
import sys
from pathlib import Path

import pytest

from crnn_jax.training.writers import Writer

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import results

SCORES = {
    "exact_match": 0.5,
    "exact_match_caseless": 0.75,
    "exact_match_confusable": 0.875,
    "cer": 0.0625,
}
ROW = {
    "set": "a set",
    "images": "90 / 8",
    "arguments": [
        *("--config", "configs/tiny.py", "--config.data.source=folder"),
        *("--config.data.dir={data}/set", "--config.epochs=3"),
    ],
}
WHEN = {"date": "2026-01-02", "minutes": 1.6}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A run of three epochs, of which the second was the best."""
    folder = tmp_path / "run"
    with Writer(folder, 6, 2, 0) as writer:
        for step, speed, score in ((2, 10.0, 0.25), (4, 50.0, 0.75), (6, 40.0, 0.5)):
            writer.metrics(step, step / 2, "train", {"loss": 1.0, "images_per_second": speed})
            writer.metrics(step, step / 2, "validation", {"exact_match": score})
        writer.metrics(4, 2.0, "test", SCORES)
    return folder


def test_metrics_are_those_of_the_run(workdir: Path) -> None:
    assert results.metrics(workdir) == {
        **SCORES,
        "step": 4,
        "images_per_second": 40,
        "curve": [[2, 0.25], [4, 0.75], [6, 0.5]],
    }


def test_table_and_curves(workdir: Path, tmp_path: Path) -> None:
    done = {**ROW, "metrics": {**WHEN, **results.metrics(workdir)}}
    rows = {"tiny": done, "planned": ROW}
    results.write_results(rows, tmp_path / "results.json")
    assert results.read_results(tmp_path / "results.json") == rows
    lines = results.table(rows).splitlines()
    assert len(lines) == 3  # what has not been run is not in it
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:4] == ["`tiny`", "a set", "90 / 8", "`configs/tiny.py` `epochs=3`"]
    assert cells[4:] == ["50.0 %", "75.0 %", "87.5 %", "6.2 %", "2 min", "40", "2026-01-02"]


def test_some_images_of_a_set(tmp_path: Path) -> None:
    whole, some = tmp_path / "whole", tmp_path / "some"
    (whole / "images").mkdir(parents=True)
    for split, names in (("train", "abcdefgh"), ("test", "xy")):
        for name in names:
            (whole / "images" / f"{name}.png").write_bytes(name.encode())
        lines = [f"images/{name}.png\t{name.upper()}" for name in names]
        (whole / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
    results.copy_some(whole, 3, some)
    learned = (some / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert len(set(learned)) == 3
    assert set(learned) < set((whole / "train.tsv").read_text(encoding="utf-8").splitlines())
    assert (some / "test.tsv").read_text(encoding="utf-8").split("\n")[:2] == [
        "images/x.png\tX",
        "images/y.png\tY",
    ]
    named = {line.split("\t")[0] for line in learned} | {"images/x.png", "images/y.png"}
    assert {str(path.relative_to(some)) for path in some.glob("images/*")} == named
    assert (some / "images" / "x.png").read_bytes() == b"x"


def test_the_tables_part_rows_of_whole_sets_from_others(workdir: Path) -> None:
    done = {**ROW, "metrics": {**WHEN, **results.metrics(workdir)}}
    text = results.tables({"few": {**done, "some": ["a set", 3]}, "all": done})
    assert text.index("`all`") < text.index(results.OF_PARTS) < text.index("`few`")


def test_errors_are_told_of_the_rows_that_count_them(workdir: Path) -> None:
    done = {**ROW, "metrics": {**WHEN, **results.metrics(workdir)}}
    assert results.OF_ERRORS not in results.tables({"tiny": done})
    counted = {**done["metrics"], "confusions": [["0", "o", 3], ["l", "", 1]]}
    text = results.tables({"tiny": done, "told": {**done, "metrics": counted}})
    assert text.endswith("| `told` | 0 as o 3, l left out 1 | 8 |\n")


def test_benchmarks_stand_in_a_table_of_their_own(workdir: Path) -> None:
    done = {**ROW, "metrics": {**WHEN, **results.metrics(workdir)}}
    assert results.OF_BENCHMARKS not in results.tables({"tiny": done})
    score = {"set": "iiit5k", "subset": "all", "count": 3000}
    score |= {"exact_match": 0.5, "exact_match_alphanumeric": 0.7015, "cer": 0.125}
    scored = {**done["metrics"], "benchmarks": [score]}
    text = results.tables({"tiny": done, "scored": {**done, "metrics": scored}})
    assert text.endswith("| `scored` | iiit5k | all | 3,000 | 70.2 % | 50.0 % | 12.5 % |\n")


def test_a_run_begins_from_nothing(workdir: Path, tmp_path: Path) -> None:
    before = (workdir / "metrics.jsonl").read_bytes()
    with pytest.raises(SystemExit, match=r"run is there already"):
        results.run(ROW, workdir, tmp_path)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_what_is_shown_was_run_and_its_command_is_given() -> None:
    rows = results.read_results()
    for name, row in rows.items():
        config = Path(row["arguments"][1].split(":")[0])
        assert (results.ROOT / config).is_file(), name
    text = results.README.read_text(encoding="utf-8")
    assert results.BEGIN + results.tables(rows) + results.END in text
    assert json.loads(results.RESULTS.read_text(encoding="utf-8")) == rows
