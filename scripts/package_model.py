"""Puts the best checkpoint of a run into the package: half precision, in the package itself.

    python scripts/package_model.py runs/mine mine

writes crnn_jax/pretrained/mine, and `python -m crnn_jax.predict --model mine` reads with it. Of the
run's config nothing is kept, as it names folders of its machine. The digests of all models in the
package are in crnn_jax/pretrained/SHA256SUMS, which `sha256sum --check` reads.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from crnn_jax.errors import CrnnError
from crnn_jax.recognition.pretrained import ARRAYS, MANIFEST, PRETRAINED_DIR, write_pretrained
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.manifest import IDENTITY
from crnn_jax.training.state import SHORTCUT_HEAD


def package_model(workdir: Path, folder: Path) -> TrainedModel:
    """Packages the best checkpoint of a workdir, with the metrics that were recorded of it.

    Returns:
      The model as it is read back.

    Raises:
      CheckpointError: there is none, or it cannot be packaged.
    """
    model = TrainedModel.load(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        manifest = checkpoints.manifest(model.step)
    file = workdir / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    metrics = [line for line in map(json.loads, lines) if line["step"] == model.step]
    # What serves training alone stays outside.
    settings = {**model.description["settings"], "shortcut": False}
    params = model.variables["params"]
    params = {part: arrays for part, arrays in params.items() if part != SHORTCUT_HEAD}
    described = {
        "step": model.step,
        **{key: manifest[key] for key in (*IDENTITY, "versions", "calibration") if key in manifest},
        "model": {**model.description, "settings": settings},
        "metrics": {line["split"]: line for line in metrics if line["split"] != "train"},
    }
    write_pretrained(folder, described, {**model.variables, "params": params})
    return TrainedModel.load(folder)


def write_digests(folder: Path) -> None:
    """Writes SHA256SUMS of the models in a folder."""
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for name in (ARRAYS, MANIFEST)
        for path in sorted(folder.glob(f"*/{name}"))
    )
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Packages the model that the command line names."""
    parser = argparse.ArgumentParser(description="Puts a trained model into the package.")
    parser.add_argument("workdir", type=Path, help="of a run")
    parser.add_argument("name", help="of the model, such as mine")
    parser.add_argument("--replace", action="store_true", help="a pretrained model of that name")
    arguments = parser.parse_args()
    if not arguments.name.isidentifier():
        parser.error(f"a pretrained model is called by letters, digits and _, not {arguments.name}")
    folder = PRETRAINED_DIR / arguments.name
    if folder.exists() and not arguments.replace:
        parser.error(f"{folder} is there already; choose another name, or add --replace")
    try:
        model = package_model(arguments.workdir, folder)
    except CrnnError as error:
        sys.exit(f"error: {error}")
    write_digests(PRETRAINED_DIR)
    size = (folder / ARRAYS).stat().st_size
    print(f"{folder}: step {model.step:,}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
