"""Says what is wrong with labeled images, before anything is trained on them.

    python -m crnn_jax.check_data --dir DIR

looks through a folder, and with `--config` and its overrides through the data of a config;
`--show_augmented` draws what the config's `augment` makes of the training images. The
exit code is 0 if nothing is wrong, 2 if there are warnings, 1 if there are errors.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags
from ml_collections import config_flags

from crnn_jax.commands import parse_flags, print_result, run_command

if TYPE_CHECKING:
    from PIL import Image

EXIT_CODES = {"note": 0, "warning": 2, "error": 1}
RECIPE = Path(__file__).parents[1] / "configs" / "captcha.py"

CONFIG = config_flags.DEFINE_config_file("config", help_string="The recipe.", lock_config=True)
DIR = flags.DEFINE_string("dir", None, "A folder; short for the source folder and its data.dir.")
JSON = flags.DEFINE_bool("json", False, "Prints JSON, with every offender.")
IMAGE_GRID = flags.DEFINE_string(
    "image_grid", None, "Where to put a PNG of images with their labels."
)
SHOW_AUGMENTED = flags.DEFINE_string(
    "show_augmented", None, "Where to put a PNG of training images, each as augment changes it."
)


def main(arguments: Sequence[str]) -> None:
    """Prints the report to standard output.

    Raises:
      ConfigError: arguments that are no flags, or nothing for --show_augmented to show.
    """
    from crnn_jax.data.augment import Augmentation
    from crnn_jax.dataset import check_dataset
    from crnn_jax.errors import ConfigError
    from crnn_jax.image_grids import augmentation_grid, sample_grid

    if len(arguments) > 1:
        raise ConfigError(f"what is {arguments[1]}? a folder is named with --dir={arguments[1]}")
    config = CONFIG.value
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


def parse(arguments: Sequence[str]) -> list[str]:
    """What is left of a command line, the default recipe standing in where none is named.

    As the flag's own default its overrides would be read when this module is imported, where a
    mistake in them is a traceback.
    """
    program, *rest = arguments
    named = any(re.match("--?config(=|$)", argument) for argument in rest)
    return parse_flags([program, *([] if named else [f"--config={RECIPE}"]), *rest])


def _save(grid: "Image.Image", path: str) -> None:
    from crnn_jax.errors import DataError

    try:
        grid.save(path, "PNG")
    except OSError as error:
        raise DataError(
            f"cannot write {path!r} ({error.strerror}); name a file in a folder that is there"
        ) from error


if __name__ == "__main__":
    app.run(run_command(main), flags_parser=parse)
