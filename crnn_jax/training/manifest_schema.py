"""What manifests may say: the types, ranges and lengths of their entries, in all formats.

An entry that is not listed here may have any value; nothing reads it.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_CHARACTERS = 200_000
"""Of an alphabet; Unicode has 160,000 characters."""

_Positive: TypeAlias = Annotated[int, Meta(ge=1)]
_Natural: TypeAlias = Annotated[int, Meta(ge=0)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_ShareBelowOne: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1_000)]
_Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_DType: TypeAlias = Annotated[
    str, Meta(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64)|bfloat16)\Z")
]

# Settings lie at most four levels deep: `data.parts.NAME.KEY`. With a limit no manifest exhausts
# the stack of the functions that walk through a config.
_Scalar: TypeAlias = bool | int | float | str | None
_Value: TypeAlias = _Scalar | list[_Scalar | list[_Scalar]]
_Key: TypeAlias = Annotated[str, Meta(pattern=r"^[^.]{1,1000}\Z")]
_Level4: TypeAlias = dict[_Key, _Value]
_Level3: TypeAlias = dict[_Key, _Value | _Level4]
_Level2: TypeAlias = dict[_Key, _Value | _Level3]
_Config: TypeAlias = dict[_Key, _Value | _Level2]


class Head(Struct):
    """What every format has, those of later versions included."""

    format: _Positive
    digest: _Sha256 | None = None


class Alphabet(Struct):
    """`text.alphabet.Alphabet.to_dict`; earlier versions also saved a fingerprint."""

    characters: Annotated[str, Meta(min_length=1, max_length=MAX_CHARACTERS)]
    ignore_case: bool


# A later version may have further settings, which this one would have to know.
class Preprocessing(Struct, forbid_unknown_fields=True):
    """`data.images.Preprocessing.to_dict`."""

    height: _Positive
    channels: Literal[1, 3]
    width: _Natural
    max_width: _Positive
    invert: bool = False


class Settings(Struct):
    """The fields of `models.crnn.CRNN`; other networks may have others, which they check."""

    channels: Annotated[list[_Positive], Meta(min_length=1)] | UnsetType = UNSET
    hidden: _Positive | UnsetType = UNSET
    batch_norm: _Name | UnsetType = UNSET
    space_to_depth: Literal[1, 2] | UnsetType = UNSET
    first_pool: bool | UnsetType = UNSET
    leaky: bool | UnsetType = UNSET
    momentum: _ShareBelowOne | UnsetType = UNSET
    dropout: _ShareBelowOne | UnsetType = UNSET
    per_image: bool | UnsetType = UNSET
    freeze_conv_stack: bool | UnsetType = UNSET
    shortcut: bool | UnsetType = UNSET
    dtype: Literal["float32", "bfloat16"] | UnsetType = UNSET


SETTINGS = Settings.__struct_fields__


class Model(Struct):
    """The name of a network and its settings."""

    name: _Name
    settings: Settings


class Array(Struct):
    """The description of an array of a checkpoint."""

    shape: Annotated[list[_Natural], Meta(max_length=8)]
    dtype: _DType
    sha256: _Sha256


class Position(Struct):
    """Where a run was."""

    step: _Natural
    epoch: Annotated[float, Meta(ge=0)]
    seed: _Natural


# A later version may have further weights, without which these mean something else.
class Calibration(Struct, forbid_unknown_fields=True):
    """`recognition.calibration.Calibration.to_dict`."""

    intercept: Annotated[float, Meta(ge=-20, le=20)]
    slope: Annotated[float, Meta(gt=0, le=20)]
    min_confidence: _Share | None
    images: _Natural
    right: _Natural


class Manifest(Struct, kw_only=True):
    """What checkpoints and pretrained models have in common: all that inference needs."""

    alphabet: Alphabet
    model: Model
    preprocessing: Preprocessing
    versions: dict[_Name, str] = {}
    calibration: Calibration | None = None


class Checkpoint(Manifest, kw_only=True):
    """A checkpoint, format 1: without digests."""

    config: _Config
    score: _Share | None = None
    best_score: _Share | None = None
    since_best: _Natural = 0
    on_plateau: bool = False
    position: Position | None = None
    num_examples: dict[_Name, _Natural] = {}
    pictures: dict[_Name, _Natural] = {}  # the earlier name of `num_examples`
    init_from: str = ""


class SealedCheckpoint(Checkpoint, kw_only=True):
    """A checkpoint, from format 2 on."""

    arrays: dict[_Name, Array]


class Scores(Struct):
    """The file beside the manifest of a checkpoint of format 1."""

    exact_match: _Share | None


class File(Struct):
    """The description of the file of a pretrained model's arrays."""

    sha256: _Sha256
    bytes: _Natural = 0


class Pretrained(Manifest, kw_only=True):
    """A pretrained model."""

    step: _Natural
    arrays: File
    config: _Config = {}
    metrics: dict[_Name, dict[_Name, Any]] = {}
    charsets: Annotated[dict[_Name, float], Meta(max_length=20)] = {}
