"""Runs the experiments of results.json, and puts their metrics into the README.

    python scripts/results.py run keras sysu --data DIR --machine "two cores of ..."
    python scripts/results.py render

`run` trains each of the experiments named from an empty workdir, with the command that its row
holds ({data} is DIR, {some} a copy of the set with as many training images as `some` says), and
writes what came of it into results.json. `render` makes of all rows the tables in README.md, and of
those that train on whole sets the curves .github/learning_curves.png (`pip install -e ".[bench]"`).
"""

import argparse
import datetime
import json
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from crnn_jax.text.confusions import describe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results.json"
README = ROOT / "README.md"
CURVES = ROOT / ".github" / "learning_curves.png"
BEGIN, END = "<!-- made by scripts/results.py render -->\n", "<!-- until here -->\n"
OF_PARTS = "The same with fewer training images, drawn from the training images by chance:"
OF_BENCHMARKS = "Scene text, on all labels and on those that published results are on:"
OF_ERRORS = "The commonest errors, what is written first, and how often of how many test images:"

FOLDER = "data.source=folder"
CONFUSIONS = 8  # the commonest, which are shown
SCORES = ("exact_match", "exact_match_caseless", "exact_match_confusable", "cer")


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """The rows by name: `set`, `images`, `arguments`, and `metrics` once they have been run.

    Those that train on a part of a set have `some`: its folder, and how many training images;
    those that are scored on further sets have `benchmarks`: their folders.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def write_results(results: dict[str, Any], path: Path = RESULTS) -> None:
    """Writes each row on a line of its own."""
    rows = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in results.items())
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def run(row: dict[str, Any], workdir: Path, data: Path) -> dict[str, Any]:
    """Trains a row's experiment and measures it.

    Args:
      row: of results.json.
      workdir: is not there yet.
      data: the folder that holds the sets.

    Raises:
      SystemExit: the workdir is there, or the command failed.
    """
    if workdir.exists():
        sys.exit(f"error: {workdir} is there already; times are those of runs from the beginning")
    some = workdir.with_name(f"{workdir.name}_images")
    if "some" in row:
        folder, number = row["some"]
        copy_some(data / folder, number, some)
    arguments = [argument.format(data=data, some=some) for argument in row["arguments"]]
    command = [sys.executable, "-m", "crnn_jax.main", *arguments, "--workdir", str(workdir)]
    print(shlex.join(command), flush=True)
    start = time.monotonic()
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("error: the run failed, see above")
    minutes = (time.monotonic() - start) / 60
    confusions = printed_json([*command, "--mode", "eval"])["confusions"][:CONFUSIONS]
    done = {"minutes": round(minutes, 1), **metrics(workdir), "confusions": confusions}
    if "benchmarks" in row:
        folders = [str(data / folder) for folder in row["benchmarks"]]
        scoring = [sys.executable, "-m", "crnn_jax.score", "--json", "--model", str(workdir)]
        scores = printed_json([*scoring, *folders])
        done["benchmarks"] = [{**score, "set": Path(score["set"]).name} for score in scores]
    return done


def printed_json(command: list[str]) -> Any:
    """What a command's last line of output holds."""
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return json.loads(done.stdout.splitlines()[-1])


def copy_some(folder: Path, number: int, target: Path) -> None:
    """Copies a labeled set: so many training images, drawn with seed 0, and all for testing."""
    for split in ("train.tsv", "test.tsv"):
        lines = (folder / split).read_text(encoding="utf-8").splitlines()
        if split == "train.tsv":
            lines = random.Random(0).sample(lines, number)
        for image in (line.split("\t")[0] for line in lines):
            (target / image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / image, target / image)
        (target / split).write_text("\n".join(lines) + "\n", encoding="utf-8")


def metrics(workdir: Path) -> dict[str, Any]:
    """What the metrics of a run say: test scores, speed, and the curve of the validation images."""
    text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    train, validation, test = (
        [line for line in lines if line["split"] == split]
        for split in ("train", "validation", "test")
    )
    speeds = [line["images_per_second"] for line in train]
    return {
        **{key: test[-1].get(key) for key in SCORES},  # runs of earlier versions lack some
        "step": test[-1]["step"],
        "images_per_second": round(statistics.median(speeds)),
        "curve": [[line["step"], line["exact_match"]] for line in validation],
    }


def tables(results: dict[str, Any]) -> str:
    """What stands in the README: rows of whole sets, of parts of them, benchmarks, errors."""
    parts = {name: row for name, row in results.items() if "some" in row}
    whole = {name: row for name, row in results.items() if name not in parts}
    text = table(whole)
    if any("metrics" in row for row in parts.values()):
        text += f"\n{OF_PARTS}\n\n{table(parts)}"
    if scores := benchmarks_table(whole):
        text += f"\n{OF_BENCHMARKS}\n\n{scores}"
    if errors := errors_table(whole):
        text += f"\n{OF_ERRORS}\n\n{errors}"
    return text


def table(results: dict[str, Any]) -> str:
    """The rows that have been run, in Markdown."""
    head = ("row", "set", "train / test", "config", "exact match", "caseless", "confusables equal")
    head += ("CER", "wall time", "images/s", "date")
    lines: list[list[str]] = []
    for name, row in results.items():
        if done := row.get("metrics"):
            scores = ["" if done[key] is None else f"{100 * done[key]:.1f} %" for key in SCORES]
            speed = [f"{done['minutes']:.0f} min", str(done["images_per_second"]), done["date"]]
            config, *changed = row["arguments"][1:]
            # Where the images lie is no part of the recipe.
            changed = [of.removeprefix("--config.") for of in changed if "{" not in of]
            config = " ".join(f"`{of}`" for of in (config, *changed) if of != FOLDER)
            lines.append([f"`{name}`", row["set"], row["images"], config, *scores, *speed])
    return markdown(head, lines)


def benchmarks_table(results: dict[str, Any]) -> str:
    """The scores of the rows that have been scored on benchmarks, in Markdown; empty if none."""
    head = ("row", "set", "labels", "images", "36 characters, caseless", "exact match", "CER")
    lines: list[list[str]] = []
    for name, row in results.items():
        for score in row.get("metrics", {}).get("benchmarks", ()):
            keys = ("exact_match_alphanumeric", "exact_match", "cer")
            scores = [f"{100 * score[key]:.1f} %" for key in keys]
            lines.append(
                [f"`{name}`", score["set"], score["subset"], f"{score['count']:,}", *scores]
            )
    return markdown(head, lines) if lines else ""


def errors_table(results: dict[str, Any]) -> str:
    """The confusions of the rows of which they were counted, in Markdown; empty if of none."""
    lines: list[list[str]] = []
    for name, row in results.items():
        if counted := row.get("metrics", {}).get("confusions"):
            counter = Counter({(label, read): n for label, read, n in counted})
            shown = describe(counter, CONFUSIONS).replace("|", r"\|")  # else it ends the cell
            lines.append([f"`{name}`", shown, row["images"].partition(" / ")[2]])
    return markdown(("row", "errors", "images"), lines) if lines else ""


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of cells."""
    first, *rest = (f"| {' | '.join(cells)} |\n" for cells in (head, *lines))
    return "".join((first, "|---" * len(head), "|\n", *rest))


def draw_curves(results: dict[str, Any], path: Path) -> None:
    """Draws exact match on the validation images over training steps, a curve for each row.

    Generated captchas stand beside other images; there are ten colors, and dashes for variants.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    generated, others = figure.subplots(1, 2, sharex=True, sharey=True)
    for name, row in results.items():
        if (done := row.get("metrics")) and "some" not in row:
            steps, scores = zip(*done["curve"], strict=True)
            panel = generated if row["set"].startswith("generated") else others
            line = "--" if ":" in row["arguments"][1] else "-"
            panel.plot(steps, [100 * score for score in scores], line, label=name)
    for panel, title in ((generated, "generated captchas"), (others, "other images")):
        panel.set(title=title, xlabel="steps of 32 images", ylim=(0, 101), xscale="log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.xaxis.set_minor_formatter("")
        panel.grid(alpha=0.3)
        lines = panel.get_legend_handles_labels()  # named, as an empty panel is warned of else
        panel.legend(*lines, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    generated.set(ylabel="exact match on validation training images, %")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs or renders, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train, and record the metrics")
    running.add_argument("names", nargs="+", help="rows of results.json")
    running.add_argument("--data", type=Path, required=True, help="the folder that holds the sets")
    running.add_argument("--machine", required=True, help="what it runs on, for the record")
    running.add_argument("--workdirs", type=Path, default=Path("runs/results"))
    commands.add_parser("render", help="write the table and the curves")
    arguments = parser.parse_args()
    results = read_results()
    if arguments.command == "render":
        text = README.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        README.write_text(before + BEGIN + tables(results) + END + after, encoding="utf-8")
        draw_curves(results, CURVES)
        return
    if unknown := set(arguments.names) - set(results):
        sys.exit(f"error: no row {', '.join(sorted(unknown))}; there are {', '.join(results)}")
    for name in arguments.names:
        done = run(results[name], arguments.workdirs.resolve() / name, arguments.data.resolve())
        when = {"date": f"{datetime.date.today()}", "machine": arguments.machine}
        # Read again: another run may have added its metrics meanwhile.
        results = read_results()
        results[name]["metrics"] = {**when, **done}
        write_results(results)


if __name__ == "__main__":
    main()
