"""Generated captchas and rendered text, which are drawn at first use."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crnn_jax.data.sources.split import Split
from crnn_jax.data.sources.tfds_builder import damage, prepare_once, read_split
from crnn_jax.errors import CrnnError, DataError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


def load_generated(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Returns 'train' and 'test' of `settings["variant"]`; draws the images if they are not stored.

    `settings["dir"]` is the folder where TFDS stores data sets; '' is TFDS's default.

    Raises:
        ConfigError: a package that draws the images is not installed.
        DataError: there is no such variant, or its images cannot be drawn or stored.
    """
    from crnn_jax.data.synthetic.builder import GeneratedConfig

    builder = prepare(settings["variant"], settings["dir"])
    config = builder.builder_config
    assert isinstance(config, GeneratedConfig)
    splits: dict[str, Split] = {}
    for name, wanted in (("train", config.num_train), ("test", config.num_test)):
        splits[name] = read_split(builder, name, "image", "text", whole=True)
        if (found := len(splits[name])) != wanted:
            error = ValueError(f"it has {found:,} images, not {wanted:,}")
            raise damage(f"the split {name!r}", Path(builder.data_path), True, error)
    return splits


def prepare(variant: str, data_dir: str) -> "DatasetBuilder":
    """Returns the builder of a variant after drawing its images, unless `data_dir` has them.

    `words/1000000` is the variant `words` with that number of training images.

    Raises:
        ConfigError: a package that draws the images is not installed.
        DataError: there is no such variant, or its images cannot be drawn or stored.
    """
    # Imported here because tensorflow_datasets takes seconds, which other sources do not need.
    from tensorflow_datasets.core.utils.file_utils import list_data_dirs

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
    kind, config = variants[name]
    if slash:
        if not (count.isdecimal() and int(count)):
            raise DataError(
                f"data.variant={variant!r}: {count!r} is not a number of images; write"
                f" {name}/100000"
            )
        config = dataclasses.replace(config, name=f"{name}_{int(count)}", num_train=int(count))

    def make() -> "DatasetBuilder":
        # By name: in a worker process TFDS does not recognize the copy of a known configuration.
        chosen = config if slash else name
        return kind(config=chosen, data_dir=data_dir or None, file_format="array_record")

    try:
        return prepare_once(kind.name, data_dir, make)
    except CrnnError:
        raise
    except BrokenProcessPool as error:
        raise DataError(
            "a process that draws images died; start the same command again, with more memory free"
        ) from error
    except Exception as error:  # of TFDS, which reads what is stored
        folder = Path(list_data_dirs(data_dir or None)[0]).expanduser()
        folder = folder / kind.name / config.name / str(config.version or kind.VERSION)
        if folder.is_dir():
            raise damage(f"the data set of the images {variant!r}", folder, True, error) from error
        if not isinstance(error, OSError | RuntimeError):  # a full disk raises either
            raise
        raise DataError(
            f"the images {variant!r} cannot be stored in {str(folder)!r}"
            f" ({' '.join(str(error).split())}); make room there, or choose another folder with"
            " --config.data.dir"
        ) from error
