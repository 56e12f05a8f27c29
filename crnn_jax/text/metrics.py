"""Recognition metrics as sums and counts, which merge exactly over batches and devices."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import add
from typing import Self

from rapidfuzz.distance import Levenshtein

from crnn_jax.errors import DataError
from crnn_jax.text.protocol import alphanumeric_match, confusable_match


@dataclass(frozen=True, slots=True)
class TextMetrics:
    """Sums and counts over samples; `+` merges, `compute` divides, `TextMetrics()` is zero."""

    count: int = 0
    exact: int = 0
    exact_caseless: int = 0
    exact_alphanumeric: int = 0
    exact_confusable: int = 0
    edits: int = 0
    reference_characters: int = 0
    one_minus_ned_sum: float = 0.0
    loss_sum: float = 0.0
    blanks: int = 0
    time_steps: int = 0
    predicted_characters: int = 0

    @classmethod
    def from_texts(
        cls,
        predictions: Sequence[str],
        references: Sequence[str],
        *,
        loss_sum: float = 0.0,
        blanks: int = 0,
        time_steps: int = 0,
    ) -> Self:
        """Compare B predictions with B references, both normalized by the same alphabet.

        Lengths and edits are counted in code points.

        Args:
            predictions: B texts that were read.
            references: B labels.
            loss_sum: the sum of the samples' losses.
            blanks: the number of time steps at which the blank is the likeliest class.
            time_steps: the number of time steps of all samples.

        Raises:
            ValueError: `predictions` and `references` differ in length.
        """
        pairs = list(zip(predictions, references, strict=True))
        edits = [Levenshtein.distance(prediction, reference) for prediction, reference in pairs]
        return cls(
            count=len(pairs),
            exact=sum(prediction == reference for prediction, reference in pairs),
            # casefold() is Unicode's caseless match: ß equals SS, and both small sigmas are equal.
            # The alphabet uses lower() instead, so that a model can still write ß.
            exact_caseless=sum(
                prediction.casefold() == reference.casefold() for prediction, reference in pairs
            ),
            exact_alphanumeric=sum(
                alphanumeric_match(prediction, reference) for prediction, reference in pairs
            ),
            exact_confusable=sum(
                confusable_match(prediction, reference) for prediction, reference in pairs
            ),
            edits=sum(edits),
            reference_characters=sum(map(len, references)),
            one_minus_ned_sum=sum(
                1 - distance / max(len(prediction), len(reference), 1)
                for distance, (prediction, reference) in zip(edits, pairs, strict=True)
            ),
            loss_sum=loss_sum,
            blanks=blanks,
            time_steps=time_steps,
            predicted_characters=sum(map(len, predictions)),
        )

    def __add__(self, other: "TextMetrics") -> "TextMetrics":
        return TextMetrics(*map(add, astuple(self), astuple(other)))

    def compute(self) -> dict[str, float]:
        """Return the metrics of all samples merged so far.

        - `loss`: the mean over the samples.
        - `exact_match`, `exact_match_caseless`: the share of samples that were read right, with
          and without regard to case.
        - `exact_match_alphanumeric`: the share of `alphanumeric_match`, as scene-text benchmarks
          count; `exact_match_confusable`: that of `confusable_match`.
        - `cer`: the character error rate, all edits divided by all reference characters. It may
          exceed 1; without any reference character it is the number of edits.
        - `one_minus_ned`: the mean of 1 - edits / max(len(prediction), len(reference)), where a
          sample counts 1 if both are empty (Chng et al. 2019, "ICDAR2019 Robust Reading Challenge
          on Arbitrary-Shaped Text - RRC-ArT").
        - `blank_fraction`: the share of time steps at which the blank is the likeliest class; 0
          without time steps.
        - `mean_predicted_length`: in code points.
        - `count`: the number of samples, an int.

        Raises:
            DataError: there are no samples.
        """
        if not self.count:
            raise DataError("there are no samples to evaluate; give a set with at least one")
        return {
            "loss": self.loss_sum / self.count,
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
