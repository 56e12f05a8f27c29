"""Compiles the training and evaluation steps for a TPU that is not there, and says what they cost.

    pip install ".[tpu]"
    python scripts/compile_tpu.py --topology v5e:2x4 --per_device_batch 256

Memory, arithmetic and bytes moved are the compiler's own account of one device's program; the
roofline time is what the chip needs at least for either, whichever is longer.
"""

import argparse
import json
import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # constants need a device that is there
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # which would wait for a cloud's answer

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from rich.console import Console
from rich.table import Table
from workload import Workload

from crnn_jax.evaluate import make_eval_step
from crnn_jax.train_step import make_train_step
from crnn_jax.training import parallel

CHIPS = {"v5e": (197e12, 819e9), "v6e": (918e12, 1640e9)}  # bf16 FLOP/s and bytes/s of HBM


@dataclass(frozen=True)
class Cost:
    """What one device does in a step."""

    arguments: int  # bytes of HBM that hold state and batch
    temporaries: int  # bytes of HBM besides
    flop: float
    bytes_accessed: float

    def seconds(self, chip: str) -> float:
        """The roofline time on a chip."""
        flop_per_second, bytes_per_second = CHIPS[chip]
        return max(self.flop / flop_per_second, self.bytes_accessed / bytes_per_second)


def cost(step: Any, *arguments: Any) -> Cost:
    """Compiles a pmapped step for abstract arguments."""
    compiled = step.lower(*arguments).compile()
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
    return Cost(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flop=analysis["flops"],
        bytes_accessed=analysis["bytes accessed"],
    )


def costs(topology: str, workload: Workload, settings: dict[str, Any]) -> dict[str, Cost]:
    """The costs of the training and of the evaluation step; the workload's batch is a device's."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    parallel.devices = lambda: list(devices)  # the steps are made for what this returns

    def on_each_device(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((len(devices), *leaf.shape), leaf.dtype), tree
        )

    network = workload.network(**settings)
    state = on_each_device(jax.eval_shape(lambda: workload.state(network)))
    batch = on_each_device(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, workload.batch())))
    return {
        "train": cost(make_train_step(network, workload.optimizer(), 0), state, batch),
        "eval": cost(make_eval_step(network), state.eval_variables, batch),
    }


def main() -> None:
    """Compiles both steps and prints a table, and a JSON object with --json."""
    parser = argparse.ArgumentParser(description="What a step costs on a TPU.")
    parser.add_argument("--topology", default="v5e:2x4", help="as libtpu names it")
    parser.add_argument("--per_device_batch", type=int, default=256)
    parser.add_argument("--model", default="crnn", help="crnn, crnn_half or crnn_small")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    arguments = parser.parse_args()
    workload = Workload(arguments.model, arguments.per_device_batch, arguments.width, channels=3)
    # As in configs/captcha.py:paper, in bfloat16; without the shortcut, which is small.
    settings = {"batch_norm": "all", "momentum": 0.95, "per_image": True, "dtype": "bfloat16"}
    result: dict[str, dict[str, float]] = {}
    table = Table(title=f"{arguments.model}, {workload.batch_size} a device, {arguments.topology}")
    for column in ("step", "HBM GB", "GFLOP", "GB accessed"):
        table.add_column(column, justify="right")
    for chip in CHIPS:
        table.add_column(f"{chip} ms", justify="right")
        table.add_column("images/s a chip", justify="right")
    for name, step in costs(arguments.topology, workload, settings).items():
        metrics = {
            "hbm_bytes": step.arguments + step.temporaries,
            "temporary_bytes": step.temporaries,
            "flop": step.flop,
            "bytes_accessed": step.bytes_accessed,
        }
        row = [metrics["hbm_bytes"] / 1e9, step.flop / 1e9, step.bytes_accessed / 1e9]
        for chip in CHIPS:
            seconds = step.seconds(chip)
            metrics[f"{chip}_seconds"] = seconds
            metrics[f"{chip}_images_per_second"] = workload.batch_size / seconds
            row += [1e3 * seconds, workload.batch_size / seconds]
        result[name] = metrics
        table.add_row(name, *(f"{value:,.1f}" for value in row))
    Console().print(table)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
