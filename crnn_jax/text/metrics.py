"""Recognition metrics as sums and counts, which merge exactly over batches and devices."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import add
from typing import Self

from crnn_jax.errors import DataError
from crnn_jax.text.protocol import alphanumeric_match, confusable_match


@dataclass(frozen=True, slots=True)
class TextMetrics:
    """Sums and counts over samples.

    `+` merges two of them, `TextMetrics()` is the neutral element, and `compute` divides.
    """

    count: int = 0
    exact: int = 0
    exact_caseless: int = 0
    exact_alphanumeric: int = 0
    exact_confusable: int = 0
    edits: int = 0
    reference_characters: int = 0
    one_minus_ned_sum: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    blanks: int = 0
    time_steps: int = 0
    predicted_characters: int = 0

    @classmethod
    def from_texts(
        cls,
        predictions: Sequence[str | None],
        references: Sequence[str],
        *,
        loss_sum: float = 0.0,
        loss_count: int = 0,
        blanks: int = 0,
        time_steps: int = 0,
    ) -> Self:
        """Compares B predictions with B references, both normalized by the same alphabet.

        Lengths and edits are counted in code points.

        Args:
            predictions: None for an image that is missing. It is never right, not even if the
                reference is empty, and its edits are all characters of the reference.
            references: the labels.
            loss_sum: the sum of the losses of the samples that have one.
            loss_count: the number of these samples.
            blanks: the number of time steps where the blank is the likeliest class.
            time_steps: the number of time steps.

        Raises:
            ValueError: `predictions` and `references` differ in length.
        """
        from rapidfuzz.distance import Levenshtein  # here, as reading an image needs none of it

        pairs = list(zip(predictions, references, strict=True))
        read = [(text, reference) for text, reference in pairs if text is not None]
        edits = [Levenshtein.distance(text, reference) for text, reference in read]
        missing = sum(len(reference) for text, reference in pairs if text is None)
        return cls(
            count=len(pairs),
            exact=sum(text == reference for text, reference in read),
            # casefold() is Unicode's caseless match: ß = SS, and both small sigmas are equal. The
            # alphabet uses lower() instead, so that the model can still write ß.
            exact_caseless=sum(text.casefold() == reference.casefold() for text, reference in read),
            exact_alphanumeric=sum(alphanumeric_match(*pair) for pair in read),
            exact_confusable=sum(confusable_match(*pair) for pair in read),
            edits=sum(edits) + missing,
            reference_characters=sum(map(len, references)),
            one_minus_ned_sum=sum(
                1 - distance / max(len(text), len(reference), 1)
                for distance, (text, reference) in zip(edits, read, strict=True)
            ),
            loss_sum=loss_sum,
            loss_count=loss_count,
            blanks=blanks,
            time_steps=time_steps,
            predicted_characters=sum(len(text) for text, _ in read),
        )

    def __add__(self, other: "TextMetrics") -> "TextMetrics":
        return TextMetrics(*map(add, astuple(self), astuple(other)))

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all samples merged so far.

        - `loss`: the mean over the samples that have a loss; 0 if none has one.
        - `exact_match`: the share of predictions that equal their reference. Variants of it are
          `exact_match_caseless`, `exact_match_alphanumeric` (the metric of scene-text benchmarks,
          see `alphanumeric_match`) and `exact_match_confusable` (see `confusable_match`).
        - `cer`: all edits over all characters of the references. It can exceed 1; if the references
          have no characters, it is the number of edits.
        - `one_minus_ned`: the mean of 1 - edits / max(len(prediction), len(reference)), where two
          empty texts give 1 and a missing image 0 (Chng et al. 2019, "ICDAR2019 Robust Reading
          Challenge on Arbitrary-Shaped Text - RRC-ArT").
        - `blank_fraction`: the share of blanks in the time steps; 0 if there are none.
        - `mean_predicted_length`: in characters.
        - `count`: the number of samples.

        Raises:
            DataError: there are no samples.
        """
        if not self.count:
            raise DataError("the evaluated set has no samples; choose one that has")
        return {
            "loss": self.loss_sum / max(self.loss_count, 1),
            "exact_match": self.exact / self.count,
            "exact_match_caseless": self.exact_caseless / self.count,
            "exact_match_alphanumeric": self.exact_alphanumeric / self.count,
            "exact_match_confusable": self.exact_confusable / self.count,
            "cer": self.edits / max(self.reference_characters, 1),
            "one_minus_ned": self.one_minus_ned_sum / self.count,
            "blank_fraction": self.blanks / max(self.time_steps, 1),
            "mean_predicted_length": self.predicted_characters / self.count,
            "count": self.count,
        }
