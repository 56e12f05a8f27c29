"""Compiles the training and evaluation steps for TPUs without having any, and shows their cost.

    pip install -e ".[tpu]"
    python scripts/compile_tpu.py --topology v5e:2x4 --per_device_batch 256

Memory, arithmetic and bytes moved are the compiler's estimates for the program of one device. The
roofline time is the time that the chip needs at least: for the arithmetic or for the memory
traffic, whichever is longer.
"""

import argparse
import json
import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # constants need an existing device
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # a query would wait for a cloud server

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from rich.console import Console
from rich.table import Table
from workload import Workload

from crnn_jax.evaluation import make_eval_step
from crnn_jax.train_step import make_train_step

CHIPS = {"v5e": (197e12, 819e9), "v6e": (918e12, 1640e9)}  # bf16 FLOP/s and bytes/s of HBM


@dataclass(frozen=True)
class Cost:
    """The cost of a step on one device."""

    arguments: int  # bytes of HBM for state and batch
    temporaries: int  # further bytes of HBM
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
    """The costs of the training step and the evaluation step, by name.

    Args:
      topology: the TPUs, as libtpu names them.
      workload: its batch is that of one device.
      settings: of the network.
    """
    devices = topologies.get_topology_desc(topology, platform="tpu").devices

    def on_each_device(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((len(devices), *leaf.shape), leaf.dtype), tree
        )

    network = workload.network(**settings)
    state = on_each_device(jax.eval_shape(lambda: workload.state(network)))
    batch = on_each_device(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, workload.batch())))
    train_step = make_train_step(network, workload.optimizer(), 0, devices=devices)
    eval_step = make_eval_step(network, devices)
    return {
        "train": cost(train_step, state, batch),
        "eval": cost(eval_step, state.eval_variables, batch),
    }


def main() -> None:
    """Compiles both steps and prints a table, with --json also a JSON object."""
    parser = argparse.ArgumentParser(description="Shows what a step costs on a TPU.")
    parser.add_argument("--topology", default="v5e:2x4", help="the TPUs, as libtpu names them")
    parser.add_argument("--per_device_batch", type=int, default=256)
    parser.add_argument("--model", default="crnn", help="crnn, crnn_half or crnn_small")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="print a JSON object on the last line")
    arguments = parser.parse_args()
    workload = Workload(arguments.model, arguments.per_device_batch, arguments.width, channels=3)
    # As in configs/captcha.py:paper, but in bfloat16 and without the shortcut, which costs little.
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
