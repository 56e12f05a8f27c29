"""Captchas that are drawn at first use."""

from collections.abc import Mapping
from typing import Any

from crnn_jax.data.sources.split import Split
from crnn_jax.data.sources.tfds_builder import read_split


def load_generated(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Return 'train' and 'test' of the captchas `settings["variant"]`, drawn where not yet stored.

    `settings["dir"]` is where TFDS stores data sets; '' is its own default.

    Raises:
        DataError: there is no such variant, or drawing failed.
    """
    # Here, as importing tensorflow_datasets takes seconds that other sources need not pay.
    from crnn_jax.data.generated_captcha import prepare

    builder = prepare(settings["variant"], settings["dir"] or None)
    return {split: read_split(builder, split, "image", "text") for split in ("train", "test")}
