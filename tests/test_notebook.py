"""Runs scripts/colab.ipynb from top to bottom, and presses Interrupt once on the way."""

import asyncio
import base64
import copy
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupyter_client
import nbclient
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "scripts" / "colab.ipynb"
INTERRUPTED = "interrupted"  # the id of the cell that is stopped


class Client(nbclient.NotebookClient):
    """Presses Interrupt as soon as the cell INTERRUPTED prints that training begins."""

    interruption: asyncio.Task[None] | None = None

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        output = super().process_message(msg, cell, cell_index)
        if cell.id == INTERRUPTED and not self.interruption and "from scratch" in text_of(cell):
            self.interruption = asyncio.ensure_future(self.km.interrupt_kernel())
        return output


@dataclass(frozen=True)
class Run:
    """The cells by id, after they were run, and the workdir."""

    cells: dict[str, Any]
    workdir: Path

    def text(self, cell: str) -> str:
        return text_of(self.cells[cell])

    def result(self, cell: str) -> Any:
        """The JSON that a cell printed: results go to stdout, progress to stderr."""
        return json.loads(text_of(self.cells[cell], ("stdout",)))

    def metrics(self) -> list[dict[str, Any]]:
        lines = (self.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def text_of(cell: Any, streams: Sequence[str] = ("stdout", "stderr")) -> str:
    return "".join(
        output.text
        for output in cell.outputs
        if output.output_type == "stream" and output.name in streams
    )


def png_of(cell: Any) -> list[bytes]:
    return [
        base64.b64decode(output.data["image/png"])
        for output in cell.outputs
        if output.output_type == "display_data" and "image/png" in output.data
    ]


def kernel_manager(directory: Path) -> jupyter_client.AsyncKernelManager:
    """Starts ipykernel with this interpreter, whatever kernels the user has installed."""
    spec = directory / "kernels" / "here"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "here", "language": "python"}), encoding="utf-8"
    )
    return jupyter_client.AsyncKernelManager(
        kernel_name="here",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(spec.parent)]),
        connection_file=str(directory / "connection.json"),
    )


def kernel_environment(directory: Path, workdir: Path) -> dict[str, str]:
    """The environment of a user: one device, and none of the tests' settings of JAX."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    return {
        **environment,
        # As on CI systems and in some kernels: colors without a terminal.
        "FORCE_COLOR": "1",
        "CRNN_JAX_RECIPE": "tiny",
        "CRNN_JAX_WORKDIR": str(workdir),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
        "TFDS_DATA_DIR": str(directory / "tfds"),
        "IPYTHONDIR": str(directory / "ipython"),
        "TMPDIR": str(directory),
        # Nothing listens there: any access to the network fails.
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }


# Takes two minutes, so each test that uses it is slow.
@pytest.fixture(scope="module", params=[pytest.param("run", marks=pytest.mark.slow)])
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("notebook")
    workdir = directory / "workdir"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place, rest = next((i, cell) for i, cell in enumerate(notebook.cells) if cell.id == "rest")
    notebook.cells.insert(place, copy.deepcopy(rest))
    notebook.cells[place].id = INTERRUPTED
    client = Client(
        notebook,
        km=kernel_manager(directory),
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},  # where Jupyter would start it
        allow_error_names=["KeyboardInterrupt"],
        timeout=300,
        startup_timeout=120,
    )
    client.execute(env=kernel_environment(directory, workdir), cleanup_kc=True)
    return Run({cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}, workdir)


def test_the_file_is_valid_and_stores_no_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_every_cell_ran_in_order_and_only_the_interrupt_raised(run: Run) -> None:
    counts = [cell.execution_count for cell in run.cells.values()]
    assert counts == list(range(1, len(counts) + 1))
    errors = [
        (name, output.ename)
        for name, cell in run.cells.items()
        for output in cell.outputs
        if output.output_type == "error"
    ]
    assert errors == [(INTERRUPTED, "KeyboardInterrupt")]


def test_the_clone_is_used_and_one_device_found(run: Run) -> None:
    assert run.text("install").strip().endswith(f"from {ROOT}")
    assert run.text("devices").startswith("1 x cpu (cpu)")


def test_an_epoch_is_trained_from_scratch(run: Run) -> None:
    assert "1 epochs of 7 steps on 1 cpu device(s), from scratch" in run.text("first")


def test_interrupt_saves_and_the_cell_goes_on_from_there(run: Run) -> None:
    beginning = "4 epochs of 7 steps on 1 cpu device(s)"
    assert f"{beginning}, from scratch" in run.text(INTERRUPTED)
    stopped = re.search(r"stopped and saved at step (\d)", run.text(INTERRUPTED))
    assert stopped
    assert f"{beginning}, continuing after step {stopped[1]}" in run.text("rest")


def test_training_ends_with_the_last_epoch(run: Run) -> None:
    measured = [(line["split"], line["step"]) for line in run.metrics()]
    assert [step for split, step in measured if split == "validation"] == [7, 14, 21, 28]
    assert measured[-1][0] == "test"


def test_the_saved_model_is_evaluated_as_at_the_end_of_training(run: Run) -> None:
    evaluated = run.result("evaluate")
    assert evaluated["count"] == 64
    trained = run.metrics()[-1]
    for key in ("step", "count", "exact_match", "cer"):
        assert evaluated[key] == pytest.approx(trained[key], rel=1e-5), key


def test_no_progress_bar_is_redrawn_without_a_terminal(run: Run) -> None:
    for cell in run.cells:
        assert "\x1b[2K" not in run.text(cell), cell


@pytest.mark.parametrize("cell", ["show-first", "show-rest"])
def test_curves_and_predictions_are_shown(run: Run, cell: str) -> None:
    assert len(png_of(run.cells[cell])) == 2


def test_the_last_predictions_shown_are_those_in_the_workdir(run: Run) -> None:
    assert png_of(run.cells["show-rest"])[-1] == (run.workdir / "predictions.png").read_bytes()


def test_images_are_read(run: Run) -> None:
    lines = [line.split("\t") for line in run.text("read").splitlines()]
    assert [name for name, _, _ in lines] == [f"{index:05d}.png" for index in range(12)]
    assert all(set(text) <= set("0123456789") for _, text, _ in lines)
    assert all(0 < float(confidence) <= 1 for _, _, confidence in lines)
    assert len(png_of(run.cells["read"])) == 1
