"""Data sets of TensorFlow Datasets, read without TensorFlow."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from crnn_jax.data.images import header_size
from crnn_jax.data.sources.split import ImageFacts, Split, digest, nfc
from crnn_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

logger = logging.getLogger(__name__)


def load_tfds(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Reads 'train' and 'test', 'test' alone, or 'all' of the data set `settings["variant"]`.

    The variant is a name as TFDS writes it, `name/config:version`. `settings["dir"]` is the folder
    where TFDS stores data sets; '' is TFDS's default. A data set that is not there is prepared if
    its builder needs no TensorFlow. `image_field` and `text_field` name two of its features.

    Raises:
        ConfigError: the data set has no such features.
        DataError: there is no such data set, or it cannot be read.
    """
    # Imported here because it takes seconds, which other sources do not need.
    import tensorflow_datasets as tfds

    name, image, text = (settings[key] for key in ("variant", "image_field", "text_field"))
    try:
        builder = prepare_once(
            lambda: tfds.builder(
                name, data_dir=settings["dir"] or None, file_format="array_record", try_gcs=False
            )
        )
    except Exception as error:  # builders raise all kinds of errors
        raise DataError(
            f"TFDS cannot open the data set {name!r} ({_first_line(error)}); set"
            " --config.data.variant to a name that TFDS knows, and --config.data.dir to the folder"
            " where the data set is stored"
        ) from error
    features: Any = builder.info.features
    for field, setting in ((image, "image_field"), (text, "text_field")):
        if field not in features:
            raise ConfigError(
                f"the data set {name!r} has no feature {field!r}; set --config.data.{setting} to"
                f" one of {', '.join(features)}"
            )
    present = [split for split in ("train", "test") if split in builder.info.splits]
    if "test" in present:
        return {split: read_split(builder, split, image, text) for split in present}
    names = list(builder.info.splits)
    if not names:
        raise DataError(f"the data set {name!r} has no splits; prepare it again")
    return {"all": read_split(builder, "train" if present else names[0], image, text)}


def prepare_once(make: "Callable[[], DatasetBuilder]") -> "DatasetBuilder":
    """Returns the builder that `make` creates, with its data set prepared.

    If several processes need the same data set, one prepares it and the others wait.

    Raises: what preparing the data set raises.
    """
    builder = make()
    if builder.data_path.exists():
        return builder
    if "://" in str(builder.data_path):  # a bucket has no locks
        builder.download_and_prepare()
        return builder
    folder = Path(builder.data_dir_root)
    folder.mkdir(parents=True, exist_ok=True)
    name = builder.info.full_name
    lock = filelock.FileLock(folder / f".{name.replace('/', '_')}.lock")
    try:
        held = lock.acquire(blocking=False)
    except filelock.Timeout:
        logger.warning("another process is preparing %s in %r; waiting", name, str(folder))
        held = lock.acquire()
    with held:
        builder = make()  # again: a builder reads what is stored when it is created
        builder.download_and_prepare()
    return builder


def read_split(
    builder: "DatasetBuilder", split: str, image_field: str, text_field: str, whole: bool = False
) -> Split:
    """Reads the texts of a split of a prepared builder; images are read on demand.

    Args:
        builder: the data set.
        split: the name of the split.
        image_field: the feature that holds the image.
        text_field: the feature that holds its text.
        whole: whether all images are known to be undamaged. Their sizes are then read from their
            headers.

    Raises:
        DataError: the features do not hold an image and a text.
    """
    import tensorflow_datasets as tfds

    # TFDS's logging decorator hides the signature of as_data_source from pyright.
    records = builder.as_data_source(
        split,  # pyright: ignore[reportCallIssue]
        decoders={image_field: tfds.decode.SkipDecoding()},
    )
    labels: list[str] = []
    facts: list[ImageFacts] = []
    for index in range(len(records)):
        record = records[index]
        image, label = record[image_field], record[text_field]
        if not isinstance(image, bytes):
            raise DataError(
                f"the feature {image_field!r} of {builder.info.full_name} is not an image; set"
                " --config.data.image_field to the feature that is"
            )
        # A record is read as a whole, so the image is at hand.
        facts.append(ImageFacts(digest(image), header_size(image) if whole else None))
        try:
            labels.append(nfc(label.decode("utf-8")))
        except (AttributeError, UnicodeDecodeError) as error:  # a number, or pixels
            raise DataError(
                f"the feature {text_field!r} of {builder.info.full_name} is not a text; set"
                " --config.data.text_field to the feature that is"
            ) from error
    names = tuple(f"{split}/{index:05d}" for index in range(len(labels)))
    return Split(names, tuple(labels), _Images(records, image_field), facts=tuple(facts))


@dataclass(frozen=True)
class _Images:
    records: Any
    field: str

    def __call__(self, index: int) -> bytes:
        return self.records[index][self.field]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
