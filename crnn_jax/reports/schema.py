"""What report.json has: the types and limits of its entries, which a page is made from."""

from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct

FORMAT = 1

_Natural: TypeAlias = Annotated[int, Meta(ge=0)]
_Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_NotNegative: TypeAlias = Annotated[float, Meta(ge=0)]
# Reports come from strangers as well: nothing but an image is put where a page expects one.
_Image: TypeAlias = Annotated[str, Meta(pattern=r"^data:image/jpeg;base64,[A-Za-z0-9+/=]+\Z")]


class Share(Struct):
    """How many are right, as a fraction with its 95 % Wilson interval."""

    right: _Natural
    count: _Natural
    value: _Fraction
    low: _Fraction
    high: _Fraction


class Model(Struct):
    """The model that was evaluated.

    `trained_on` says in words where its training images come from, and is empty if that is not
    known. `settings` are those of its config by their dotted names.
    """

    name: str
    step: _Natural
    network: str
    parameters: _Natural
    characters: str
    ignore_case: bool
    preprocessing: dict[str, Any]
    trained_on: str = ""
    init_from: str = ""
    settings: dict[str, Any] = {}


class Run(Struct):
    """How the report came about; `command` is empty if a Python program asked for it."""

    date: str
    command: str
    machine: str
    versions: dict[str, str]
    options: dict[str, str] = {}  # of the decoding


class Split(Struct):
    """The images of a split: how many, their labels, and what is wrong with them.

    `lengths` and `characters` count labels by their length, and characters.
    """

    images: _Natural
    lengths: dict[str, _Natural]
    characters: dict[str, _Natural]
    unreadable: _Natural = 0
    unseen: _Natural = 0  # labels with characters that the model does not know
    too_narrow: _Natural = 0  # images with fewer time steps than CTC needs for their labels


class Headline(Struct):
    """The metrics of all images; images that cannot be read count as wrong."""

    exact: Share
    caseless: Share
    alphanumeric: Share
    cer: _NotNegative
    one_minus_ned: float
    unreadable: _Natural


class Group(Struct):
    """The metrics of some of the images, such as those with labels of one length."""

    name: str
    exact: Share
    cer: _NotNegative


class Character(Struct):
    """How a character is read, by a shortest alignment of each text with its label.

    `support` counts it in labels, `read` in texts, and `right` where both agree. A ratio of nothing
    is None.
    """

    character: str
    support: _Natural
    read: _Natural
    right: _Natural
    precision: _Fraction | None
    recall: _Fraction | None


class Confusion(Struct):
    """How often a character of a label was read as another; either is empty for none."""

    written: str
    read: str
    count: _Natural


class Matrix(Struct):
    """Counts of the characters with the most mistakes: rows are written, columns are read.

    The first of `characters` is empty: its row is what was put in, its column what was left out.
    """

    characters: list[str]
    counts: list[list[_Natural]]


class Bin(Struct):
    """The images whose confidence is in a range: their mean confidence, and how many are right."""

    low: _Fraction
    high: _Fraction
    confidence: _Fraction
    exact: Share


class Kept(Struct):
    """What remains if texts below a confidence are dropped: a share of all images, and its share
    of right texts."""

    confidence: _Fraction
    coverage: _Fraction
    accuracy: _Fraction


class Curve(Struct):
    """A metric over the steps of the training."""

    split: str
    metric: str
    points: list[tuple[_Natural, float]]


class Result(Struct, array_like=True):
    """What was read in an image; `text` is None if the image is unreadable.

    `identity` is the digest of the image file, so that reports of moved images can be compared.
    """

    identity: str
    name: str
    label: str
    text: str | None
    confidence: _Fraction

    @property
    def right(self) -> bool:
        """Whether the text is the label."""
        return self.text == self.label


class Shown(Struct):
    """An image that the page shows: the index of its result, and its size on the page."""

    index: _Natural
    image: _Image
    width: _Natural
    height: _Natural


class Report(Struct):
    """The content of report.json."""

    model: Model
    run: Run
    split: str  # the name of the evaluated one
    images: str  # in words, where they come from
    splits: dict[str, Split]  # all that are known, the evaluated one included
    headline: Headline
    lengths: list[Group]
    widths: list[Group]
    parts: list[Group]
    repeats: list[Group]
    characters: list[Character]
    confusions: list[Confusion]
    matrix: Matrix
    bins: list[Bin]
    calibration_error: _Fraction | None
    abstain: list[Kept]
    thresholds: dict[str, Kept]  # by the share of right texts that is reached
    curves: list[Curve]
    results: list[Result]
    shown: list[Shown]
    format: int = FORMAT
