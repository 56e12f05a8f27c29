"""Measures training, inference, input, decoding and reading files, optionally against PyTorch.

    pip install -e ".[bench]"
    python scripts/benchmark.py train --vs torch
    python scripts/benchmark.py infer --vs torch
    python scripts/benchmark.py input
    python scripts/benchmark.py decode
    python scripts/benchmark.py predict --images DIR

Programs that are compared take turns, A B A B, after a warm-up, on the same uint8 batches. Times
are medians; the spread is the interquartile range as a share of the median.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from decoding import BEAM, PLAIN, measure_decoding
from pipeline import measure_input
from reading import measure_reading
from rich.console import Console
from rich.table import Table
from timing import Timing, take_turns
from workload import LEARNING_RATE, SEED, Workload

from crnn_jax.architecture import Architecture
from crnn_jax.compiler import set_cpu_flags
from crnn_jax.huge_pages import restart_with_huge_pages
from crnn_jax.train_step import make_train_step
from crnn_jax.training import parallel
from crnn_jax.trees import flatten

# In fp32: the accuracy of bf16 has not been measured, and CPUs without it are slower with it.
OURS = "crnn_jax fp32"
OURS_IN_ONNX = "crnn_jax onnx"
INFERENCE_BATCHES = (1, 32, 256)
TOLERANCE = 1e-4  # largest difference of logits in fp32

Program = Callable[[], object]


def our_training_step(workload: Workload) -> Program:
    """Returns a function that takes a training step on all devices, each from the last state."""
    network = workload.network()
    step = make_train_step(network, workload.optimizer(), SEED)
    state = parallel.replicate(workload.state(network))
    batch = workload.batch()

    def run() -> None:
        nonlocal state
        state, metrics = step(state, parallel.shard(batch))
        jax.block_until_ready((state, metrics))

    return run


def our_inference(workload: Workload, variables: Any) -> Callable[[], np.ndarray]:
    """Returns a function that computes the logits of the workload's batch."""
    apply = jax.jit(workload.network().apply)
    batch = workload.batch()
    return lambda: np.asarray(apply(variables, batch["images"], batch["widths"])[0])


def our_onnx_inference(workload: Workload, variables: Any) -> Callable[[], np.ndarray]:
    """Returns a function that computes the logits with our graph in onnxruntime.

    It is the part of the graph of a recognizer that ends with the logits, in the same session.
    """
    from crnn_jax.onnx_graph.network import network
    from crnn_jax.onnx_graph.nodes import Graph, tensor
    from crnn_jax.onnx_graph.resize import prepared
    from crnn_jax.recognition.onnx_backend import start_session

    graph, batch = Graph(), workload.batch()
    images, widths = prepared(graph, "images"), graph.cast("widths", np.int64)
    arrays, architecture = flatten(variables), Architecture.of(workload.model, {})
    logits, _ = network(graph, architecture, arrays, images, widths)
    inputs = [
        tensor("images", np.uint8, ("B", workload.height, "W", workload.channels)),
        tensor("widths", np.int32, ("B",)),
    ]
    model = graph.model(inputs, [tensor(logits, np.float32, ("B", "T", "K"))], "crnn")
    session = start_session(model.SerializeToString())
    feeds = {name: batch[name] for name in ("images", "widths")}

    def run() -> np.ndarray:
        (found,) = session.run([logits], feeds)
        return np.asarray(found)

    return run


def fresh_variables(workload: Workload) -> dict[str, Any]:
    """Initial parameters and statistics, on the host."""
    return jax.tree.map(np.asarray, workload.state(workload.network()).variables)


def settings_that_run(makers: Mapping[str, Callable[[], Program]]) -> dict[str, Program]:
    """Makes programs and calls each once; those that fail are reported and left out."""
    programs: dict[str, Program] = {}
    for name, make in makers.items():
        try:
            program = make()
            program()
        except Exception as error:  # torch.compile passes on the errors of its compilers
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{name} does not run here: {reason[:120]}", file=sys.stderr)
        else:
            print(f"{name} runs", file=sys.stderr)  # a compiled program takes a minute to get here
            programs[name] = program
    return programs


def duel(
    ours: Mapping[str, Program], theirs: Mapping[str, Program], rounds: int
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Tries all of theirs, then lets all of ours and the best of theirs take turns.

    The best of theirs are the fastest in fp32 and the fastest of all, which may be the same.

    Returns:
      The times of the trials, one turn of each program, and the times of the finalists. Only the
      latter can be compared.
    """
    # No warm-up, as each program has run once already, and a step in bf16 can take half a minute.
    trials = take_turns(theirs, rounds=1, warm_up=0) if theirs else {}
    finalists = dict(ours)
    for group in ({n: t for n, t in trials.items() if "bf16" not in n}, trials):
        if group:
            best = min(group, key=lambda name: group[name].median)
            finalists[best] = theirs[best]
    return trials, take_turns(finalists, rounds)


def metrics(
    trials: Mapping[str, Timing], finalists: Mapping[str, Timing], workload: Workload
) -> dict[str, Any]:
    """Images per second of each program, and the ratio of our best to the best of the others."""
    programs = {
        name: {
            "milliseconds": 1e3 * timing.median,
            "images_per_second": workload.batch_size / timing.median,
            "spread": timing.spread,
            "calls": len(timing.seconds),
        }
        for name, timing in {**trials, **finalists}.items()
    }
    result: dict[str, Any] = {"batch_size": workload.batch_size, "programs": programs}
    medians = {name: timing.median for name, timing in finalists.items()}
    theirs = {name: m for name, m in medians.items() if name not in (OURS, OURS_IN_ONNX)}
    if theirs:
        ours = min(median for name, median in medians.items() if name not in theirs)
        fp32 = min(median for name, median in theirs.items() if "bf16" not in name)
        result["ratio_fp32"] = fp32 / ours
        best = min(theirs, key=lambda name: theirs[name])
        result["ratio_best"] = theirs[best] / ours
        result["best"] = best
    return result


def difference(workload: Workload) -> float:
    """The largest difference of the frameworks' logits in fp32, with the same weights.

    Raises:
      SystemExit: it is larger than TOLERANCE. The networks then differ, so comparing their times
        would mean nothing.
    """
    import pytorch_crnn

    variables = fresh_variables(workload)
    theirs = pytorch_crnn.inference(
        variables, workload.batch()["images"], pytorch_crnn.VARIANTS["PyTorch fp32 channels_last"]
    )()
    largest = float(np.abs(our_inference(workload, variables)() - theirs).max())
    if not largest <= TOLERANCE:
        sys.exit(
            f"error: logits differ by {largest:.1e}, so times cannot be compared; make"
            " scripts/pytorch_crnn.py compute what crnn_jax computes"
        )
    return largest


def compare_training(workload: Workload, vs_torch: bool, rounds: int) -> dict[str, Any]:
    """Measures training steps of the workload."""
    if not vs_torch:
        return metrics({}, take_turns({OURS: our_training_step(workload)}, rounds), workload)
    import pytorch_crnn

    largest = difference(workload)
    theirs = settings_that_run(
        {
            name: partial(
                pytorch_crnn.training_step,
                fresh_variables(workload),
                workload.batch(),
                settings,
                LEARNING_RATE,
            )
            for name, settings in pytorch_crnn.VARIANTS.items()
        }
    )
    timings = duel({OURS: our_training_step(workload)}, theirs, rounds)
    return {**metrics(*timings, workload), "logits_differ_by": largest}


def compare_inference(workload: Workload, vs_torch: bool, rounds: int) -> dict[str, Any]:
    """Measures inference, from images to logits."""
    variables = fresh_variables(workload)
    ours: dict[str, Callable[[], np.ndarray]] = {
        OURS: our_inference(workload, jax.device_put(variables)),
        OURS_IN_ONNX: our_onnx_inference(workload, variables),
    }
    if not vs_torch:
        return metrics({}, take_turns(ours, rounds), workload)
    import pytorch_crnn

    largest = difference(workload)
    images = workload.batch()["images"]
    theirs = settings_that_run(
        {
            name: partial(pytorch_crnn.inference, variables, images, settings)
            for name, settings in pytorch_crnn.VARIANTS.items()
        }
        | {"onnxruntime fp32": partial(pytorch_crnn.onnx_inference, variables, images)}
    )
    return {**metrics(*duel(ours, theirs, rounds), workload), "logits_differ_by": largest}


def plain_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """A table with a row for each name and a column for each metric."""
    table = Table("", title=title)
    for name in next(iter(rows.values())):
        table.add_column(name.replace("_", " "), justify="right")
    for name, row in rows.items():
        table.add_row(
            name, *(f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in row.values())
        )
    return table


def report(what: str, workload: Workload, result: Mapping[str, Any]) -> list[Table | str]:
    """What is printed about a comparison: a table, the fastest program first, and the ratios."""
    size = f"{workload.height} x {workload.width}, batch {workload.batch_size}"
    programs = result["programs"]
    rows = {
        name: programs[name] for name in sorted(programs, key=lambda n: programs[n]["milliseconds"])
    }
    lines: list[Table | str] = [plain_table(f"{what}, {workload.model}, {size}", rows)]
    if "ratio_fp32" in result:
        lines.append(
            f"ratio_fp32 {result['ratio_fp32']:.2f}, ratio_best {result['ratio_best']:.2f}"
            f" (of {result['best']}); logits differ by {result['logits_differ_by']:.1e}"
        )
    return lines


def main() -> None:
    """Measures what the command line names."""
    restart_with_huge_pages(script="benchmark.py")
    parser = argparse.ArgumentParser(description="Measures crnn_jax.")
    parser.add_argument("what", choices=["train", "infer", "input", "decode", "predict"])
    parser.add_argument("--vs", choices=["torch"], help="compare train or infer with this")
    parser.add_argument("--model", default="crnn", help="crnn, crnn_half or crnn_small")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=15, help="number of turns of each program")
    parser.add_argument("--images", type=Path, help="folder of images for predict; else captchas")
    parser.add_argument("--json", action="store_true", help="print a JSON object on the last line")
    arguments = parser.parse_args()
    if arguments.vs and arguments.what not in ("train", "infer"):
        parser.error(f"--vs works with train and infer, not with {arguments.what}")
    if arguments.vs and arguments.model == "crnn_small":
        parser.error("--vs works with --model crnn and crnn_half, not with crnn_small")
    set_cpu_flags()
    console = Console()
    workload = Workload(arguments.model, width=arguments.width)
    vs_torch = arguments.vs == "torch"
    result: dict[str, Any] = {}
    if arguments.what == "train":
        result = compare_training(workload, vs_torch, arguments.rounds)
        console.print(*report("train", workload, result), sep="\n")
    elif arguments.what == "infer":
        for batch_size in INFERENCE_BATCHES:
            workload = Workload(arguments.model, batch_size, arguments.width)
            of_batch = compare_inference(workload, vs_torch, arguments.rounds)
            result[str(batch_size)] = of_batch
            console.print(*report("infer", workload, of_batch), sep="\n")
    elif arguments.what == "input":
        result = measure_input(workload.batch_size)
        training = take_turns({OURS: our_training_step(workload)}, rounds=3)[OURS]
        for source in result.values():
            source["times_training"] = (
                source["images_per_second"] * training.median / workload.batch_size
            )
        console.print(plain_table("input, without training", result))
    elif arguments.what == "predict":
        result = measure_reading(arguments.images, workload.batch_size, arguments.rounds)
        console.print(plain_table(f"predict, batch {workload.batch_size}", result))
    else:
        result = measure_decoding(workload, arguments.rounds)
        console.print(plain_table(f"decode, batch {workload.batch_size}", result))
        times = result[BEAM]["images_per_second"] / result[PLAIN]["images_per_second"]
        console.print(f"{BEAM} is {times:.0f} times as fast as in plain Python")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
