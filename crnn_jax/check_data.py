"""Looks for mistakes in labeled images, before anything is trained on them.

    python -m crnn_jax.check_data --dir DIR

looks through a folder. With --config and its overrides it looks through the data of a config.
--show_augmented draws how the `augment` settings of the config change the training images. The exit
code is 0 if nothing is wrong, 2 if there are warnings, 1 if there are errors.

`crnn-jax check-data` does the same.
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from crnn_jax.commands import define_config, override, print_result, run
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.recipes import DEFAULT, get_config

if TYPE_CHECKING:
    from PIL import Image

EXIT_CODES = {"note": 0, "warning": 2, "error": 1}

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, DEFAULT)
DIR = flags.DEFINE_string(
    "dir",
    None,
    "A folder; short for --config.data.source=folder --config.data.dir=DIR.",
    flag_values=FLAGS,
)
JSON = flags.DEFINE_bool(
    "json", False, "Prints JSON, with all images that something is wrong with.", flag_values=FLAGS
)
IMAGE_GRID = flags.DEFINE_string(
    "image_grid", None, "Writes a PNG of images with their labels to this file.", flag_values=FLAGS
)
SHOW_AUGMENTED = flags.DEFINE_string(
    "show_augmented",
    None,
    "Writes a PNG of training images, each as it is and as it is augmented, to this file.",
    flag_values=FLAGS,
)


def main(arguments: Sequence[str]) -> None:
    """Prints the report to standard output.

    Raises:
      ConfigError: an argument is no flag, or there is nothing for --show_augmented to show.
    """
    if folders := [argument for argument in arguments[1:] if not argument.startswith("-")]:
        raise ConfigError(f"what is {folders[0]}? a folder is named with --dir={folders[0]}")
    config = get_config(CONFIG.value)
    override(config, arguments)
    if DIR.value == "":
        raise ConfigError("--dir is empty; name a folder")

    from crnn_jax.data.augment import Augmentation
    from crnn_jax.dataset import check_dataset
    from crnn_jax.image_grids import augmentation_grid, sample_grid

    augmentation = Augmentation.from_config(config.augment)
    if SHOW_AUGMENTED.value and not augmentation.active:
        raise ConfigError(
            "the config changes no images: all shares of config.augment are 0; set one, such as"
            " --config.augment.affine=0.5"
        )
    if DIR.value:
        config.data.update(source="folder", dir=DIR.value)
    report = check_dataset(config)
    print_result(json.dumps(report.to_dict()) if JSON.value else "\n".join(report.lines()))
    if IMAGE_GRID.value:
        _save(sample_grid(report), IMAGE_GRID.value)
    if SHOW_AUGMENTED.value:
        _save(augmentation_grid(report, augmentation, config.seed), SHOW_AUGMENTED.value)
    sys.exit(EXIT_CODES[report.severity])


def _save(grid: "Image.Image", path: str) -> None:
    try:
        grid.save(path, "PNG")
    except OSError as error:
        raise DataError(
            f"cannot write {path!r} ({error.strerror}); name a file in an existing folder"
        ) from error


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
