"""Data sets of TensorFlow Datasets, read without TensorFlow."""

import contextlib
import logging
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from crnn_jax.data.images import header_size
from crnn_jax.data.sources.record_sizes import check_records
from crnn_jax.data.sources.split import ImageFacts, Split, digest, nfc
from crnn_jax.data.sources.tfds_folder import check_folder
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.files import open_file

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

logger = logging.getLogger(__name__)

# Without a namespace, as in `huggingface:mnist`: those load code from elsewhere.
_NAME = re.compile(r"([A-Za-z]\w*)(/[\w+-][\w+.-]*)?(:[\d*]+\.[\d*]+\.[\d*]+)?")


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
    from tensorflow_datasets.core.naming import camelcase_to_snakecase

    name, image, text = (settings[key] for key in ("variant", "image_field", "text_field"))
    found = _NAME.fullmatch(name)
    if not found:
        raise DataError(
            f"data.variant={name!r} is not the name of a TFDS data set; write name, name/config or"
            " name/config:1.0.0"
        )
    try:
        builder = prepare_once(
            camelcase_to_snakecase(found[1]),
            settings["dir"],
            lambda: tfds.builder(
                name, data_dir=settings["dir"] or None, file_format="array_record", try_gcs=False
            ),
        )
        features: Any = builder.info.features
        splits = list(builder.info.splits)
    except DataError:
        raise
    except Exception as error:  # builders raise all kinds of errors
        raise DataError(
            f"TFDS cannot open the data set {name!r} ({_first_line(error)}); set"
            " --config.data.variant to a name that TFDS knows, and --config.data.dir to the folder"
            " where the data set is stored"
        ) from error
    for field, setting in ((image, "image_field"), (text, "text_field")):
        if not isinstance(features, tfds.features.FeaturesDict) or field not in features:
            raise ConfigError(
                f"the data set {name!r} has no feature {field!r}; set --config.data.{setting} to"
                f" one of {', '.join(features or ())}"
            )
    present = [split for split in ("train", "test") if split in splits]
    if "test" in present:
        return {split: read_split(builder, split, image, text) for split in present}
    if not splits:
        raise DataError(f"the data set {name!r} has no splits; prepare it again")
    return {"all": read_split(builder, "train" if present else splits[0], image, text)}


def prepare_once(
    name: str, data_dir: str, make: "Callable[[], DatasetBuilder]"
) -> "DatasetBuilder":
    """Returns the builder that `make` creates, with its data set prepared.

    If several processes need the same data set, one prepares it and the others wait.

    Args:
        name: the name of the data set, without config and version.
        data_dir: the folder where TFDS stores data sets; '' is TFDS's default.
        make: creates the builder. What is stored is checked before.

    Raises:
        DataError: see `check_folder`.
        Exception: what `make`, or preparing the data set, raises.
    """
    from tensorflow_datasets.core.utils.file_utils import list_data_dirs

    for root in map(str, list_data_dirs(data_dir or None)):
        if "://" not in root:
            check_folder(Path(root).expanduser() / name)
    # TFDS prints what it does; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr):
        return _prepared(make)


def _prepared(make: "Callable[[], DatasetBuilder]") -> "DatasetBuilder":
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
        path = Path(builder.data_path)
        # What processes have left that were killed. Nobody else is preparing this data set now.
        for left in path.parent.glob(f"incomplete.??????_{path.name}"):
            shutil.rmtree(left, ignore_errors=True)
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
        DataError: the features do not hold an image and a text, or a record cannot be read.
    """
    read = _open(builder, split, image_field, text_field)
    labels: list[str] = []
    facts: list[ImageFacts] = []
    for index in range(len(read.records)):
        record = read.record(index)
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
    return Split(names, tuple(labels), read, facts=tuple(facts))


def damage(what: str, folder: Path, mendable: bool, error: Exception) -> DataError:
    """Returns the error for a damaged data set.

    Args:
        what: what is damaged.
        folder: of one version of the data set.
        mendable: whether the data set is prepared again if the folder is gone.
        error: what happened.
    """
    remedy = (
        f"remove the folder {str(folder)!r}, and the next start prepares it again"
        if mendable
        else f"copy the folder {str(folder)!r} again"
    )
    return DataError(f"{what} is damaged ({_first_line(error)}); {remedy}")


@dataclass(frozen=True)
class _Images:
    """Reads encoded images; other features of a record are never decoded."""

    records: Any  # serialized
    features: Any  # a FeaturesDict of two
    field: str
    split: str
    folder: Path
    mendable: bool

    def record(self, index: int) -> dict[str, Any]:
        from tensorflow_datasets import decode

        try:
            return self.features.deserialize_example_np(
                self.records[index],
                decoders={name: decode.SkipDecoding() for name in self.features},
            )
        except Exception as error:  # of Riegeli, protobuf or TFDS
            what = f"image {self.split}/{index:05d} of a TFDS data set"
            raise damage(what, self.folder, self.mendable, error) from error

    def __call__(self, index: int) -> bytes:
        return self.record(index)[self.field]


def _open(builder: "DatasetBuilder", split: str, image_field: str, text_field: str) -> _Images:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import ReadOnlyBuilder

    folder, mendable = Path(builder.data_path), not isinstance(builder, ReadOnlyBuilder)
    try:
        for part in builder.info.splits[split].file_instructions:
            if "://" not in part.filename:
                with open_file(part.filename, sys.maxsize, folder) as file:
                    check_records(file)
        # TFDS's logging decorator hides the signature of as_data_source from pyright.
        records = builder.as_data_source(
            split,  # pyright: ignore[reportCallIssue]
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        )
    except Exception as error:  # of TFDS
        what = f"the split {split!r} of a TFDS data set"
        raise damage(what, folder, mendable, error) from error
    stored: Any = builder.info.features
    features = tfds.features.FeaturesDict(
        {name: stored[name] for name in (image_field, text_field)}
    )
    return _Images(records, features, image_field, split, folder, mendable)


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
