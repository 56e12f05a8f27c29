"""What runs the network and reads its logits: JAX, or onnxruntime, which imports no JAX."""

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np

from crnn_jax.compiler import configure_jax
from crnn_jax.errors import ConfigError

BackendName = Literal["auto", "jax", "onnx"]
AUTO: BackendName = "auto"
JAX: BackendName = "jax"
ONNX: BackendName = "onnx"
BACKENDS = (AUTO, JAX, ONNX)


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read in a batch of B images, as NumPy arrays; see `decoding.Decoding`.

    Attributes:
      size: the number of images; what follows fills the batch.
      lengths: (B,), the valid time steps.
      path: (B, T), the class of each time step.
      step_probabilities: (B, T), their probabilities.
      confidences: (B,), how likely the texts are right.
      labels: (B, N, L), the classes of the N most likely texts; None if only one was found.
      label_log_probabilities: (B, N).
    """

    size: int
    lengths: np.ndarray
    path: np.ndarray
    step_probabilities: np.ndarray
    confidences: np.ndarray
    labels: np.ndarray | None = None
    label_log_probabilities: np.ndarray | None = None


class Backend(Protocol):
    """A model that is ready to read. Several threads can use it."""

    def read(self, images: Sequence[np.ndarray], batch_size: int) -> Iterator[Reading]:
        """Reads prepared images uint8 (H, W, C), sorted by width.

        Args:
          images: the images.
          batch_size: the largest number of images that the network reads at once.

        Yields:
          What was read in the next images.
        """
        ...

    def logits(
        self, images: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the logits (B, T, K) of the next images and their valid time steps (B,)."""
        ...


def choose_backend(name: BackendName, default_decoding: bool) -> BackendName:
    """Returns the backend to read with, "jax" or "onnx".

    "auto" is "onnx" if all of this holds:

    - onnxruntime and onnx are installed, as by `pip install "crnn_jax[onnx]"`;
    - JAX would run on a CPU: no plugin for an accelerator and no libtpu are installed, and
      JAX_PLATFORMS is not set or is cpu. If JAX is imported already, its default device decides;
    - texts are decoded by default, as any other decoder runs in JAX.

    On a CPU onnxruntime is then the faster one. Reading single images took 0.8 to 0.9 times the
    processor time of JAX, batches of 32 of mixed widths 0.65 to 0.93 times, as they are padded
    less. The logits of 32 images of one width took up to 1.1 times as long. It starts sooner by a
    second; see `scripts/benchmark.py infer`. It computes in single precision, whatever the model's
    `dtype`.

    Args:
      name: one of BACKENDS.
      default_decoding: whether no options of decoding are given.

    Raises:
      ConfigError: there is no such backend, or it is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"there is no backend {name!r}; choose from {', '.join(BACKENDS)}")
    missing = [package for package in ("onnxruntime", "onnx") if find_spec(package) is None]
    if name == ONNX and missing:
        raise ConfigError(
            f'the backend onnx needs {missing[0]}: pip install "crnn_jax[onnx]", or choose jax'
        )
    if name != AUTO:
        return name
    return ONNX if default_decoding and not missing and _jax_runs_on_a_cpu() else JAX


def _jax_runs_on_a_cpu() -> bool:
    """Whether JAX's default device is a CPU; if JAX is not imported, it stays so."""
    jax: Any = sys.modules.get("jax")
    if hasattr(jax, "default_backend"):  # it is not while JAX is being imported
        configure_jax()  # finding the devices fixes the flags
        try:
            return jax.default_backend() == "cpu"
        except RuntimeError:  # the platform that was asked for has no device
            return False
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and find_spec("jax_plugins") is None and find_spec("libtpu") is None
