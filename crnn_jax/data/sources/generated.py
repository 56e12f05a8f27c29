"""Captchas and rendered text that are drawn at first use."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from crnn_jax.data.sources.split import Split
from crnn_jax.data.sources.tfds_builder import read_split
from crnn_jax.errors import DataError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


def load_generated(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Return 'train' and 'test' of `settings["variant"]`, drawn where not yet stored.

    `settings["dir"]` is where TFDS stores data sets; '' is its own default.

    Raises:
        ConfigError: what is needed to draw it is not installed.
        DataError: there is no such variant, or drawing failed.
    """
    builder = prepare(settings["variant"], settings["dir"])
    return {
        split: read_split(builder, split, "image", "text", whole=True)
        for split in ("train", "test")
    }


def prepare(variant: str, data_dir: str) -> "DatasetBuilder":
    """The builder of a variant, its images drawn first where `data_dir` does not hold them yet.

    `words/1000000` is the variant `words` with so many training images.

    Raises:
        ConfigError: what is needed to draw it is not installed.
        DataError: there is no such variant, or its images cannot be drawn or stored.
    """
    # Here, as importing tensorflow_datasets takes seconds that other sources need not pay.
    from crnn_jax.data.synthetic.captcha import GeneratedCaptcha
    from crnn_jax.data.synthetic.rendered_text import RenderedText

    variants = {
        config.name: (builder, config)
        for builder in (GeneratedCaptcha, RenderedText)
        for config in builder.BUILDER_CONFIGS
    }
    name, slash, count = variant.partition("/")
    if name not in variants:
        raise DataError(
            f"there is no variant {name!r} of generated images; set --config.data.variant to one"
            f" of {', '.join(variants)}"
        )
    kind, known = variants[name]
    # By its name, as TFDS takes the copy of a known one, in a worker process, for another.
    config = name
    if slash:
        if not (count.isdecimal() and int(count)):
            raise DataError(
                f"data.variant={variant!r}: {count!r} is no number of images; write {name}/100000"
            )
        config = dataclasses.replace(known, name=f"{name}_{int(count)}", num_train=int(count))
    builder = kind(config=config, data_dir=data_dir or None, file_format="array_record")
    try:
        builder.download_and_prepare()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker drawing images died: if your script calls this at top level, "
            'move the call under `if __name__ == "__main__":`'
        ) from error
    except (OSError, RuntimeError) as error:  # a full disk is either
        raise DataError(
            f"the images {variant!r} cannot be stored in {str(builder.data_path)!r}"
            f" ({' '.join(str(error).split())}); make room there, or name another folder with"
            " --config.data.dir"
        ) from error
    return builder
