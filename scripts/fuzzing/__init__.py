"""The inputs that may come from a stranger, as scripts/fuzz.py damages and reads them.

Digests and checksums are corrected after the damage, as an attacker would do, so that the code
behind them is reached.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzing import command_lines, images, labeled_sets, models
from fuzzing.damage import Draw


@dataclass(frozen=True)
class Input:
    """A kind of input.

    Attributes:
      create: writes an undamaged one into an empty folder.
      damage: changes what `create` has written.
      read: reads it as a command would. It may raise errors of the project.
    """

    create: Callable[[Path], None]
    damage: Callable[[Draw, Path], None]
    read: Callable[[Path], object]


INPUTS = {
    "image": Input(images.create_images, images.damage_image, images.read_images),
    "labels": Input(
        labeled_sets.create_labels, labeled_sets.damage_labels, labeled_sets.read_labels
    ),
    "lmdb": Input(labeled_sets.create_lmdb, labeled_sets.damage_lmdb, labeled_sets.read_lmdb),
    "parquet": Input(
        labeled_sets.create_parquet, labeled_sets.damage_parquet, labeled_sets.read_parquet
    ),
    "tfds": Input(labeled_sets.create_tfds, labeled_sets.damage_tfds, labeled_sets.read_tfds),
    "manifest": Input(models.create_checkpoint, models.damage_manifest, models.read_model),
    "npz": Input(models.create_pretrained, models.damage_npz, models.read_model),
    "command": Input(
        command_lines.create_command, command_lines.damage_command, command_lines.read_command
    ),
}
