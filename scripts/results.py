"""Runs the experiments of docs/results.json, and renders their metrics into docs/results.md.

    python scripts/results.py run keras sysu --data DIR --machine "two cores of ..."
    python scripts/results.py render

`run` trains each named experiment in an empty workdir, with the arguments of its row ({data} stands
for DIR, {some} for a copy of the set with fewer training images), and writes its metrics into
docs/results.json. `render` writes the tables of docs/results.md, and draws the curves of the
experiments on whole sets, docs/_static/learning_curves.png (`pip install -e ".[bench]"`).
"""

import argparse
import datetime
import json
import random
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crnn_jax.text.confusions import describe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results.json"
PAGE = ROOT / "docs" / "results.md"
CURVES = ROOT / "docs" / "_static" / "learning_curves.png"
BEGIN, END = "<!-- rendered by scripts/results.py -->\n", "<!-- end of the rendered tables -->\n"
FEWER_IMAGES = (
    "## Fewer training images\n\nA random sample of the training images; all test images."
)
BENCHMARKS = "## Scene text\n\nOn all labels, and on the subsets that published results use."
ERRORS = "## Most common errors\n\nOn the test images: label as prediction, and how often."

NUMBER = re.compile(r"[\d.,/ ]+(%|min)?")
FOLDER = "data.source=folder"
CONFUSIONS = 8  # the most common ones are shown
SCORES = ("exact_match", "exact_match_caseless", "exact_match_confusable", "cer")


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """Reads the rows by name: `set`, `images`, `arguments`, and `metrics` once a row has been run.

    A row with fewer training images has `some`: the folder of the set and the number of images.
    A row that is scored on further sets has `benchmarks`: their folders.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def write_results(results: dict[str, Any], path: Path = RESULTS) -> None:
    """Writes each row on a line of its own."""
    rows = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in results.items())
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def run(row: dict[str, Any], workdir: Path, data: Path) -> dict[str, Any]:
    """Trains the experiment of a row and measures it.

    Args:
      row: a row of results.json.
      workdir: a folder that does not exist yet.
      data: the folder that holds the sets.

    Raises:
      SystemExit: the workdir exists, or the command failed.
    """
    if workdir.exists():
        sys.exit(f"error: {workdir} exists, but a run is timed from its first step; remove it")
    some = workdir.with_name(f"{workdir.name}_images")
    if "some" in row:
        folder, number = row["some"]
        copy_some(data / folder, number, some)
    arguments = [argument.format(data=data, some=some) for argument in row["arguments"]]
    command = [sys.executable, "-m", "crnn_jax.main", *arguments, "--workdir", str(workdir)]
    print(shlex.join(command), flush=True)
    start = time.monotonic()
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("error: the run failed; its message is above")
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
    """The value of a command's last line of output."""
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return json.loads(done.stdout.splitlines()[-1])


def copy_some(folder: Path, number: int, target: Path) -> None:
    """Copies a labeled set: `number` training images, drawn with seed 0, and all test images."""
    for split in ("train.tsv", "test.tsv"):
        lines = (folder / split).read_text(encoding="utf-8").splitlines()
        if split == "train.tsv":
            lines = random.Random(0).sample(lines, number)
        for image in (line.split("\t")[0] for line in lines):
            (target / image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / image, target / image)
        (target / split).write_text("\n".join(lines) + "\n", encoding="utf-8")


def metrics(workdir: Path) -> dict[str, Any]:
    """Reads test scores, speed and the curve of the validation images from a run's metrics."""
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
    """Renders the page's tables: whole sets, fewer training images, scene text, errors."""
    fewer = {name: row for name, row in results.items() if "some" in row}
    whole = {name: row for name, row in results.items() if name not in fewer}
    text = f"{conditions(results)}\n{table(whole)}"
    if any("metrics" in row for row in fewer.values()):
        text += f"\n{FEWER_IMAGES}\n\n{table(fewer)}"
    if scores := benchmarks_table(whole):
        text += f"\n{BENCHMARKS}\n\n{scores}"
    if errors := errors_table(whole):
        text += f"\n{ERRORS}\n\n{errors}"
    return text


def table(results: dict[str, Any]) -> str:
    """Renders the rows that have been run as Markdown."""
    head = ("row", "exact match", "caseless", "confusables equal", "CER", "time")
    head += ("train / test", "images", "recipe")
    lines: list[list[str]] = []
    for name, row in results.items():
        if done := row.get("metrics"):
            scores = ["" if done[key] is None else f"{100 * done[key]:.1f} %" for key in SCORES]
            images = [f"{done['minutes']:.0f} min", row["images"], row["set"].partition(" (")[0]]
            lines.append([f"`{name}`", *scores, *images, recipe(row)])
    return markdown(head, lines)


def conditions(results: dict[str, Any]) -> str:
    """Names the machines and the dates of the rows that have been run, in a line."""
    done = [row["metrics"] for row in results.values() if "metrics" in row]
    machines = "; ".join(sorted({metrics["machine"] for metrics in done}))
    dates = sorted({metrics["date"] for metrics in done})
    return f"Machine: {machines}. Dates: {', '.join(dates)}.\n"


def recipe(row: dict[str, Any]) -> str:
    """The recipe of a row and the settings that it changes, as Markdown.

    The location of the images is not part of a recipe.
    """
    file, *changed = row["arguments"][1:]
    changed = [setting.removeprefix("--config.") for setting in changed if "{" not in setting]
    name = file.removeprefix("configs/").replace(".py", "")
    return " ".join(f"`{part}`" for part in (name, *changed) if part != FOLDER)


def benchmarks_table(results: dict[str, Any]) -> str:
    """Renders the scores on benchmarks as Markdown; empty if there are none."""
    head = ("row", "set", "labels", "36 characters, caseless", "exact match", "CER", "images")
    lines: list[list[str]] = []
    for name, row in results.items():
        for score in row.get("metrics", {}).get("benchmarks", ()):
            keys = ("exact_match_alphanumeric", "exact_match", "cer")
            scores = [f"{100 * score[key]:.1f} %" for key in keys]
            named = [f"`{name}`", score["set"], score["subset"]]
            lines.append([*named, *scores, f"{score['count']:,}"])
    return markdown(head, lines) if lines else ""


def errors_table(results: dict[str, Any]) -> str:
    """Renders the confusions of the rows that counted them as Markdown; empty if none did."""
    lines: list[list[str]] = []
    for name, row in results.items():
        if counted := row.get("metrics", {}).get("confusions"):
            counter = Counter({(label, read): n for label, read, n in counted})
            shown = describe(counter, CONFUSIONS).replace("|", r"\|")  # else it ends the cell
            lines.append([f"`{name}`", row["images"].partition(" / ")[2], shown])
    return markdown(("row", "images", "errors"), lines) if lines else ""


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Renders cells as a Markdown table; columns of numbers are aligned to the right."""
    rules = ["---:" if NUMBER.fullmatch(cell) else "---" for cell in lines[0]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rules, *lines))


def draw_curves(results: dict[str, Any], path: Path) -> None:
    """Draws exact match on the validation images over training steps, a curve for each row.

    The left panel has generated captchas, the right one all other images. There are ten colors;
    variants of a recipe are dashed.
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
        lines = panel.get_legend_handles_labels()  # without them an empty panel raises a warning
        panel.legend(*lines, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    generated.set(ylabel="exact match on the validation images, %")
    # Without the version of matplotlib, so that the same results give the same file.
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """Runs experiments or renders their metrics, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train, and record the metrics")
    running.add_argument("names", nargs="+", help="rows of docs/results.json")
    running.add_argument("--data", type=Path, required=True, help="the folder that holds the sets")
    running.add_argument("--machine", required=True, help="the machine, for the record")
    running.add_argument("--workdirs", type=Path, default=Path("runs/results"))
    commands.add_parser("render", help="write the tables and draw the curves")
    arguments = parser.parse_args()
    results = read_results()
    if arguments.command == "render":
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(before + BEGIN + tables(results) + END + after, encoding="utf-8")
        draw_curves(results, CURVES)
        return
    if unknown := set(arguments.names) - set(results):
        sys.exit(f"error: no row {', '.join(sorted(unknown))}; the rows are {', '.join(results)}")
    for name in arguments.names:
        done = run(results[name], arguments.workdirs.resolve() / name, arguments.data.resolve())
        when = {"date": f"{datetime.date.today()}", "machine": arguments.machine}
        # Read again: another run may have added its metrics meanwhile.
        results = read_results()
        results[name]["metrics"] = {**when, **done}
        write_results(results)


if __name__ == "__main__":
    main()
