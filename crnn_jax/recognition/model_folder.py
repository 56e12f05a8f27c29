"""Models as folders to share: config.json, model.safetensors and README.md; without JAX.

The files are those of a model on the Hugging Face Hub. config.json is a manifest, sealed like that
of a pretrained model; it has the digest of the arrays. The folder may also lie where fsspec finds
it, such as s3://bucket/model.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crnn_jax import __version__
from crnn_jax.errors import CheckpointError, DamagedCheckpoint
from crnn_jax.training.integrity import check_forms
from crnn_jax.training.manifest import MAX_BYTES, check_manifest, parse_json, read_plain_file, seal
from crnn_jax.trees import flatten, unflatten

CONFIG, ARRAYS, CARD = "config.json", "model.safetensors", "README.md"

HEADER_BYTES = 2**20
"""What model.safetensors may have besides the arrays; of a few hundred arrays it is 0.05 MB."""

Shapes = Mapping[str, tuple[int, ...]]


def is_address(name: str | os.PathLike[str] | None) -> bool:
    """Whether a model's name is that of a folder that fsspec opens, such as s3://bucket/model."""
    return isinstance(name, str) and "://" in name


def is_model_folder(folder: Path) -> bool:
    """Whether a folder has the files of a model to share."""
    return (folder / CONFIG).is_file() and (folder / ARRAYS).is_file()


def write_model_folder(
    folder: Path, manifest: Mapping[str, Any], variables: Mapping[str, Any], about: str
) -> None:
    """Writes a model into a folder, which is created if it is missing.

    Args:
      folder: where to; files of these names are replaced.
      manifest: `step`, the `IDENTITY` of the model, `versions`, and anything else worth knowing.
      variables: `params` and `batch_stats`, nested or flat.
      about: a paragraph for README.md, Markdown: where the model comes from.

    Raises:
      OSError: a file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {
        path: np.ascontiguousarray(array, np.float32) for path, array in flatten(variables).items()
    }
    data = save(arrays)
    described = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    versions = manifest.get("versions") or {"crnn_jax": __version__}
    sealed = seal({**manifest, "versions": versions, "config": {}, "arrays": described})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS).write_bytes(data)
    text = json.dumps(sealed, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    (folder / CARD).write_text(_card(sealed, arrays, about), encoding="utf-8")


def read_manifest_of(place: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the manifest of a model folder.

    Raises:
      DamagedCheckpoint: it has changed since it was written, or does not follow the schema.
      CheckpointError: it cannot be read.
    """
    name = f"{os.fspath(place).rstrip('/')}/{CONFIG}"
    return check_manifest(parse_json(_read(place, CONFIG, MAX_BYTES), name), name, pretrained=True)


def read_arrays_of(
    place: str | os.PathLike[str], manifest: Mapping[str, Any], shapes: Shapes
) -> dict[str, Any]:
    """Returns the `params` and `batch_stats` of a model folder.

    Args:
      place: the folder.
      manifest: its manifest.
      shapes: those of the arrays that belong there.

    Raises:
      DamagedCheckpoint: they have changed since they were written, or have other shapes.
      CheckpointError: they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    name = f"{os.fspath(place).rstrip('/')}/{ARRAYS}"
    data = _read(place, ARRAYS, 4 * sum(map(math.prod, shapes.values())) + HEADER_BYTES)
    if hashlib.sha256(data).hexdigest() != manifest["arrays"]["sha256"]:
        raise DamagedCheckpoint(f"{name} is damaged: its digest is not that in {CONFIG}")
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{name} cannot be read: {error}") from error
    expected = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    check_forms(expected, arrays, name)
    return {"batch_stats": {}, **unflatten(arrays)}


def _read(place: str | os.PathLike[str], file: str, max_bytes: int) -> bytes:
    """The content of a file of a folder.

    Raises:
      DamagedCheckpoint: it is missing, not a regular file, or too large.
      CheckpointError: it cannot be read.
    """
    if not is_address(place):
        return read_plain_file(Path(place) / file, max_bytes)
    import fsspec

    address = f"{os.fspath(place).rstrip('/')}/{file}"
    try:
        with fsspec.open(address, "rb") as opened:
            data = opened.read(max_bytes + 1)  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise CheckpointError(f"{address} needs another package: {error}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {address}; check the address") from error
    except Exception as error:  # each file system raises errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{address} cannot be read: {reason}") from error
    if len(data) > max_bytes:
        raise DamagedCheckpoint(f"{address} has more than {max_bytes:,} bytes")
    return data


def _card(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray], about: str) -> str:
    preprocessing, model = manifest["preprocessing"], manifest["model"]
    params = sum(array.size for path, array in arrays.items() if path.startswith("params/"))
    size = f"{preprocessing['height']} pixels high" + (
        f", squashed to {preprocessing['width']}" if preprocessing["width"] else ""
    )
    color = "gray" if preprocessing["channels"] == 1 else "color"
    return f"""---
library_name: crnn_jax
pipeline_tag: image-to-text
tags:
- ocr
- text-recognition
- crnn
- ctc
- jax
---

# A text recognizer

{about}

It reads one line of text from an image, with [crnn_jax](https://pypi.org/project/crnn_jax/):

```python
import crnn_jax

recognizer = crnn_jax.Recognizer.load("FOLDER")  # this folder
print(recognizer("image.png").text)
```

| | |
|---|---|
| network | `{model["name"]}`, {params:,} parameters |
| images | {size}, {color} |
| characters | {len(manifest["alphabet"]["characters"]):,} |
| step | {manifest["step"]:,} |

`config.json` describes the network, the alphabet and the preprocessing, and has the SHA-256 of
`model.safetensors`. Add a `license` to the front matter before you publish the model.
"""
