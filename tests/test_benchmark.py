"""The benchmark: both frameworks compute the same, and the metrics follow from the times."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from networks import CLASSES, padded, random_variables, small_model

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import benchmark
import timing
from workload import Workload


def test_programs_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = 0.0

    def slow(name: str) -> None:
        nonlocal clock
        clock += 2.0
        calls.append(name)

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    timings = timing.take_turns({name: partial(slow, name) for name in "ab"}, rounds=2, warm_up=1)
    assert "".join(calls) == "ab" + "aabb" + "aabb"  # two calls make up a turn of three seconds
    assert all(timings[name].seconds == (2.0,) * 4 for name in "ab")


def test_ratios_are_over_the_best_of_the_others() -> None:
    seconds = {
        benchmark.OURS: (0.4, 0.5, 0.6),
        benchmark.OURS_IN_ONNX: (0.7, 0.7, 0.7),
        "PyTorch fp32 default layout": (1.0, 1.0, 1.0),
        "PyTorch fp32 channels_last": (0.6, 0.6, 9.0),
        "PyTorch bf16 default layout": (0.25, 0.25, 0.25),
    }
    finalists = {name: timing.Timing(values) for name, values in seconds.items()}
    # A trial is ignored, however fast: the program did not take turns with ours.
    trials = {"PyTorch fp32 compiled": timing.Timing((0.1,))}
    result = benchmark.metrics(trials, finalists, Workload(batch_size=10))
    assert result["ratio_fp32"] == pytest.approx(1.2)
    assert result["ratio_best"] == pytest.approx(0.5)
    assert result["best"] == "PyTorch bf16 default layout"
    assert result["programs"][benchmark.OURS]["images_per_second"] == pytest.approx(20)
    assert result["programs"]["PyTorch fp32 compiled"]["calls"] == 1


class SmallWorkload(Workload):
    def network(self, **settings: Any) -> nn.Module:
        return small_model(**settings)


def test_our_graph_has_the_same_logits() -> None:
    workload = SmallWorkload(batch_size=2, width=64)
    variables = jax.tree.map(np.asarray, random_variables(workload.network()))
    programs = benchmark.our_inference, benchmark.our_onnx_inference
    ours, in_onnx = (program(workload, variables)() for program in programs)
    assert ours.shape == (2, 17, CLASSES)
    np.testing.assert_allclose(in_onnx, ours, atol=1e-4)


def test_pytorch_has_the_same_logits() -> None:
    pytest.importorskip("torch", reason="of the extra bench")
    import pytorch_crnn

    model = small_model()
    variables = random_variables(model)
    images, widths = padded((64, 64), 64)
    logits, _ = model.apply(variables, images, widths)
    for name in ("PyTorch fp32 default layout", "PyTorch fp32 channels_last"):
        theirs = pytorch_crnn.inference(variables, images, pytorch_crnn.VARIANTS[name])()
        np.testing.assert_allclose(theirs, logits, atol=1e-4)
