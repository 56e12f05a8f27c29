"""What is in the folder of an exported model besides the model."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import BLANK

DESCRIPTION, README, PROGRAM = "model.json", "README.md", "read.py"


def write_contents(model: TrainedModel, folder: Path, program: str, readme: str) -> None:
    """Writes the alphabet, a program that reads images, and a text about them.

    Args:
      model: the model.
      folder: where to.
      program: the name of one of the files in `programs/`.
      readme: the text, in Markdown.
    """
    write_description(model, folder)
    source = files("crnn_jax.exporting") / "programs" / program
    (folder / PROGRAM).write_bytes(source.read_bytes())
    (folder / README).write_text(readme, encoding="utf-8")


def write_description(model: TrainedModel, folder: Path) -> None:
    """Writes what `describe` says."""
    text = json.dumps(describe(model), indent=2, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def describe(model: TrainedModel) -> dict[str, Any]:
    """Returns the alphabet, and which model it is; not where, as folders are passed on."""
    return {
        "characters": model.alphabet.characters,
        "blank": BLANK,
        "name": Path(model.name).name,
        "step": model.step,
    }
