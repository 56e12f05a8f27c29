"""Says what is wrong with labelled pictures, before anything is trained on them.

    python -m crnn_jax.check_data --dir DIR

looks through a folder, and with `--config` and its overrides through the data of a config. The
exit code is 0 if nothing is wrong, 2 if there are warnings, 1 if there are errors.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from crnn_jax.commands import run_command

EXIT_CODES = {"note": 0, "warning": 2, "error": 1}
RECIPE = Path(__file__).parents[1] / "configs" / "captcha.py"

CONFIG = config_flags.DEFINE_config_file("config", str(RECIPE), "The recipe.", lock_config=True)
DIR = flags.DEFINE_string("dir", None, "A folder; short for the source folder and its data.dir.")
JSON = flags.DEFINE_bool("json", False, "Prints JSON, with every offender.")
SHEET = flags.DEFINE_string("sheet", None, "Where to put a PNG of pictures with their labels.")


def main(arguments: Sequence[str]) -> None:
    """Prints the report to standard output."""
    del arguments
    from crnn_jax.dataset import check_dataset
    from crnn_jax.picture_sheet import picture_sheet

    config = CONFIG.value
    if DIR.value:
        config.data.update(source="folder", dir=DIR.value)
    report = check_dataset(config)
    print(json.dumps(report.to_dict()) if JSON.value else "\n".join(report.lines()))
    if SHEET.value:
        picture_sheet(report).save(SHEET.value)
    sys.exit(EXIT_CODES[report.severity])


if __name__ == "__main__":
    app.run(run_command(main))
