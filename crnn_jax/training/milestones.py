"""When a run logs, evaluates and stops: functions of the step and of the scores so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

PLATEAU = 0.4  # share of a run; a model that reads nothing by then hardly ever starts to read


@dataclass(frozen=True)
class Milestones:
    """The steps, counted from 1, at which a run logs and evaluates."""

    total_steps: int
    log_interval: int
    evaluation_interval: int

    @classmethod
    def from_config(cls, config: Any, total_steps: int) -> Self:
        """The milestones that a config asks for in a run of so many steps."""
        # min_steps makes the run on a small set longer, and the evaluation interval with it.
        interval = max(1, config.eval_every * total_steps // config.epochs)
        return cls(total_steps, config.log_every, interval)

    def log_at(self, step: int) -> bool:
        """Whether training metrics are recorded after this step."""
        return step % self.log_interval == 0 or step == self.total_steps

    def evaluate_at(self, step: int) -> bool:
        """Whether the validation images are read after this step."""
        return step % self.evaluation_interval == 0 or step == self.total_steps

    def plateau_at(self, step: int) -> bool:
        """Whether the evaluation after this step is the first from PLATEAU of the run on."""
        return step - self.evaluation_interval < PLATEAU * self.total_steps <= step


@dataclass
class EarlyStopping:
    """The best exact match on the validation images, and how many evaluations ago it was reached.

    The manifest of every checkpoint has both, so a resumed run knows them even if the best
    checkpoint is lost.

    Attributes:
        patience: evaluations without a better score after which the run stops; 0 for never.
        best_score: exact match in [0, 1].
        evaluations_since: evaluations since the best one.
    """

    patience: int
    best_score: float = 0.0
    evaluations_since: int = 0

    @classmethod
    def resume(cls, patience: int, manifest: Mapping[str, Any]) -> Self:
        """The state at a checkpoint, from its manifest; older checkpoints may lack the values."""
        return cls(patience, manifest.get("best_score") or 0.0, manifest.get("since_best", 0))

    def to_manifest(self) -> dict[str, Any]:
        """The entries that `resume` reads."""
        return {"best_score": self.best_score, "since_best": self.evaluations_since}

    def update(self, score: float) -> None:
        """Takes the score of an evaluation into account.

        Evaluations before the first score above 0 do not count: CTC may need epochs to leave its
        blank-only plateau, where every score is 0.
        """
        no_better = bool(self.best_score) and score <= self.best_score
        self.evaluations_since = self.evaluations_since + 1 if no_better else 0
        self.best_score = max(self.best_score, score)

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self.patience <= self.evaluations_since

    @property
    def reason(self) -> str:
        """Why the run stops, if it should."""
        return (
            f"{self.evaluations_since} evaluations in a row were no better than"
            f" {100 * self.best_score:.2f} %, see config.patience"
        )
