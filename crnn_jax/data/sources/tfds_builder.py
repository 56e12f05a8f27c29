"""Data sets of TensorFlow Datasets, by name, read without TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crnn_jax.data.images import header_size
from crnn_jax.data.sources.split import Split, digest, nfc
from crnn_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


def load_tfds(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Read 'train' and 'test', 'test' alone, or 'all' of the data set `settings["variant"]`.

    That is a name as TFDS has it, `name/config:version`. `settings["dir"]` is where TFDS keeps
    its data ('' for its default); what is not there yet is made, if the builder can without
    TensorFlow. `image_field` and `text_field` are the names of its features.

    Raises:
        ConfigError: there is no name, or no such features.
        DataError: there is no such data set, or it cannot be read.
    """
    # Here, as importing tensorflow_datasets takes seconds that other sources need not pay.
    import tensorflow_datasets as tfds

    name, image, text = (settings[key] for key in ("variant", "image_field", "text_field"))
    try:
        builder = tfds.builder(
            name, data_dir=settings["dir"] or None, file_format="array_record", try_gcs=False
        )
        builder.download_and_prepare()
    except Exception as error:  # builders raise anything
        raise DataError(
            f"TFDS cannot open the data set {name!r} ({_first_line(error)}); set "
            "--config.data.variant to a name it knows, --config.data.dir to where it is prepared"
        ) from error
    features: Any = builder.info.features
    for field, setting in ((image, "image_field"), (text, "text_field")):
        if field not in features:
            raise ConfigError(
                f"the data set {name!r} has no feature {field!r}; set --config.data.{setting} to "
                f"one of {', '.join(features)}"
            )
    present = [split for split in ("train", "test") if split in builder.info.splits]
    if "test" in present:
        return {split: read_split(builder, split, image, text) for split in present}
    names = list(builder.info.splits)
    if not names:
        raise DataError(f"the data set {name!r} has no splits; prepare it again")
    return {"all": read_split(builder, "train" if present else names[0], image, text)}


def read_split(
    builder: "DatasetBuilder", split: str, image_field: str, text_field: str, whole: bool = False
) -> Split:
    """The images and texts of a split of a prepared builder, by the names of its features.

    With `whole` its images are known to be so, and their sizes are taken from their headers.

    Raises:
        DataError: the image is no image, or the text no text.
    """
    import tensorflow_datasets as tfds

    # TFDS's logging decorator hides the signature of as_data_source from pyright.
    records = builder.as_data_source(
        split,  # pyright: ignore[reportCallIssue]
        decoders={image_field: tfds.decode.SkipDecoding()},
    )
    labels: list[str] = []
    digests: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    for index in range(len(records)):
        record = records[index]
        image, label = record[image_field], record[text_field]
        if not isinstance(image, bytes):
            raise DataError(
                f"the feature {image_field!r} of {builder.info.full_name} is no image; set "
                "--config.data.image_field to the feature that is"
            )
        digests.append(digest(image))  # it is at hand, as a record is read as a whole
        if whole:
            sizes.append(header_size(image))
        try:
            labels.append(nfc(label.decode("utf-8")))
        except (AttributeError, UnicodeDecodeError) as error:  # a number, or pixels
            raise DataError(
                f"the feature {text_field!r} of {builder.info.full_name} is no text; set "
                "--config.data.text_field to the feature that is"
            ) from error
    names = tuple(f"{split}/{index:05d}" for index in range(len(labels)))
    return Split(
        names,
        tuple(labels),
        _Images(records, image_field),
        digests=tuple(digests),
        sizes=tuple(sizes),
    )


@dataclass(frozen=True)
class _Images:
    records: Any
    field: str

    def __call__(self, index: int) -> bytes:
        return self.records[index][self.field]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
