"""When a run logs, evaluates and stops: functions of the step and of the scores so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

PLATEAU = 0.4  # share of a run; a model that reads nothing by then hardly ever starts to read
PLATEAU_CER = 0.5  # on the plateau nearly all characters are missing
PLATEAU_ADVICE = (
    "no validation image is read right; with few or difficult images start from a trained model,"
    " with --config captcha:fine_tune or --config.init_from=MODEL"
)


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
    """Whether a run should stop, by its evaluations on the validation images.

    The manifest of every checkpoint has what is remembered, so a resumed run stops at the same
    step, even if the best checkpoint is lost.

    Attributes:
        patience: evaluations without a better score after which the run stops; 0 for never.
        stop_on_plateau: whether it stops if it is stuck on CTC's blank-only plateau.
        best_score: the best exact match so far, in [0, 1].
        evaluations_since: evaluations since the best one.
        on_plateau: whether nothing was read when it should have been.
    """

    patience: int
    stop_on_plateau: bool
    best_score: float = 0.0
    evaluations_since: int = 0
    on_plateau: bool = False

    @classmethod
    def resume(cls, patience: int, stop_on_plateau: bool, manifest: Mapping[str, Any]) -> Self:
        """The state at a checkpoint, from its manifest; older checkpoints may lack the values."""
        return cls(
            patience,
            stop_on_plateau,
            manifest.get("best_score") or 0.0,
            manifest.get("since_best", 0),
            manifest.get("on_plateau", False),
        )

    def to_manifest(self) -> dict[str, Any]:
        """The entries that `resume` reads."""
        return {
            "best_score": self.best_score,
            "since_best": self.evaluations_since,
            "on_plateau": self.on_plateau,
        }

    def update(self, score: float, cer: float, due: bool) -> None:
        """Takes an evaluation into account.

        Evaluations before the first score above 0 do not count for the patience: CTC may need
        epochs to leave its plateau, where every score is 0.

        Args:
            score: exact match, in [0, 1].
            cer: character error rate. Of long lines none may be right yet when most characters are.
            due: whether a run from scratch should have left the plateau by now.
        """
        no_better = bool(self.best_score) and score <= self.best_score
        self.evaluations_since = self.evaluations_since + 1 if no_better else 0
        self.best_score = max(self.best_score, score)
        self.on_plateau |= due and not self.best_score and cer > PLATEAU_CER

    @property
    def reason(self) -> str:
        """Why the run should stop; empty if it should not."""
        if 0 < self.patience <= self.evaluations_since:
            return (
                f"{self.evaluations_since} evaluations in a row were no better than"
                f" {100 * self.best_score:.2f} %, see config.patience"
            )
        if self.on_plateau and self.stop_on_plateau:
            return f"{PLATEAU_ADVICE}; --config.stop_on_plateau=False continues this run"
        return ""
