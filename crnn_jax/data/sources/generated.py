"""Generated captchas and rendered text, which are drawn at first use."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from crnn_jax.data.sources.split import Split
from crnn_jax.data.sources.tfds_builder import prepare_once, read_split
from crnn_jax.errors import DataError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


def load_generated(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Returns 'train' and 'test' of `settings["variant"]`; draws the images if they are not stored.

    `settings["dir"]` is the folder where TFDS stores data sets; '' is TFDS's default.

    Raises:
        ConfigError: a package that draws the images is not installed.
        DataError: there is no such variant, or its images cannot be drawn or stored.
    """
    builder = prepare(settings["variant"], settings["dir"])
    return {
        split: read_split(builder, split, "image", "text", whole=True)
        for split in ("train", "test")
    }


def prepare(variant: str, data_dir: str) -> "DatasetBuilder":
    """Returns the builder of a variant after drawing its images, unless `data_dir` has them.

    `words/1000000` is the variant `words` with that number of training images.

    Raises:
        ConfigError: a package that draws the images is not installed.
        DataError: there is no such variant, or its images cannot be drawn or stored.
    """
    # Imported here because tensorflow_datasets takes seconds, which other sources do not need.
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
    # By name: in a worker process TFDS does not recognize the copy of a known configuration.
    config = name
    if slash:
        if not (count.isdecimal() and int(count)):
            raise DataError(
                f"data.variant={variant!r}: {count!r} is not a number of images; write"
                f" {name}/100000"
            )
        config = dataclasses.replace(known, name=f"{name}_{int(count)}", num_train=int(count))

    def make() -> "DatasetBuilder":
        return kind(config=config, data_dir=data_dir or None, file_format="array_record")

    try:
        return prepare_once(make)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that draws images died; start the same command again, with more memory free"
        ) from error
    except (OSError, RuntimeError) as error:  # a full disk raises either
        raise DataError(
            f"the images {variant!r} cannot be stored in {str(make().data_path)!r}"
            f" ({' '.join(str(error).split())}); make room there, or choose another folder with"
            " --config.data.dir"
        ) from error
