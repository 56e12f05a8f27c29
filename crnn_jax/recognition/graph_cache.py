"""ONNX graphs of models in the user's cache folder: the next process need not build them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import platformdirs

from crnn_jax import __version__, architecture, files, onnx_graph
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.trees import flatten

KEPT = 8
"""Graphs that are kept, those that were used last; one is as large as its model's parameters."""

MAX_BYTES = 2**31
"""Size of a graph; ONNX allows no larger ones."""

_ENDING = ".graph"
_DIGEST_SIZE = hashlib.sha256().digest_size


def graph_of(model: TrainedModel) -> bytes:
    """Returns the graph that reads as a model does, serialized; see `onnx_model`.

    It comes from the cache if it was built before. A file there begins with a digest of the model,
    of what builds graphs, and of the graph: one that is damaged, or is another model's, is not
    used. Without a place to write to, nothing is kept.

    Raises:
      ConfigError: the graph would be too large.
    """
    key = _key(model)
    folder = platformdirs.user_cache_path("crnn_jax") / "onnx"
    file = folder / f"{key}{_ENDING}"
    with contextlib.suppress(OSError):
        data = files.read_file(file, MAX_BYTES, folder)
        graph = data[_DIGEST_SIZE:]
        if data[:_DIGEST_SIZE] == _digest(key, graph):
            os.utime(file)
            return graph
    # Not at the top: importing onnx takes as long as the session does to start.
    from crnn_jax.recognition.onnx_model import onnx_model

    graph = onnx_model(model, resize=False).SerializeToString()
    with contextlib.suppress(OSError):
        files.replace_file(file, _digest(key, graph) + graph)
        _clear(folder)
    return graph


def _key(model: TrainedModel) -> str:
    """A digest of a model, and of the code that builds its graph."""
    digest = hashlib.sha256()
    for data in _code():
        digest.update(hashlib.sha256(data).digest())
    described = [
        __version__,
        model.description,
        model.alphabet.to_dict(),
        model.preprocessing.to_dict(),
        model.charsets,
        model.calibration.to_dict(),
    ]
    digest.update(json.dumps(described, sort_keys=True).encode())
    for path, array in sorted(flatten(model.variables).items()):
        array = np.ascontiguousarray(array)
        digest.update(json.dumps([path, array.shape, array.dtype.str]).encode())
        digest.update(array.data)
    return digest.hexdigest()


def _code() -> Iterator[bytes]:
    """The sources that decide what is in a graph, so that no graph of an older version is used."""
    folder = Path(onnx_graph.__file__).parent
    builder = Path(__file__).with_name("onnx_model.py")
    for file in (*sorted(folder.glob("*.py")), Path(architecture.__file__), builder):
        with contextlib.suppress(OSError):  # an installation without sources has the version
            yield file.read_bytes()


def _digest(key: str, graph: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(graph)
    return digest.digest()


def _clear(folder: Path) -> None:
    """Deletes the graphs that were not used for the longest time, and what was left unfinished."""
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in kept[KEPT:]:
        old.unlink()
