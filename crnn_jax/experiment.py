"""Everything that a config describes: data, alphabet, model and optimizer, checked together."""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import optax

from crnn_jax import models
from crnn_jax.architecture import Architecture
from crnn_jax.budget import check_budget
from crnn_jax.config import Config, check_config
from crnn_jax.data.augment import Augmentation
from crnn_jax.data.batching import TrainingPlan
from crnn_jax.data.checks import Finding
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.report import table_of_parts
from crnn_jax.data.sources import parts_of
from crnn_jax.dataset import load_dataset
from crnn_jax.evaluation import EvalStep, Evaluation, evaluate_split, make_eval_step
from crnn_jax.fine_tuning import AUTO, carry_over, choose_start, with_recipe
from crnn_jax.recipes import DEFAULT
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.training import parallel
from crnn_jax.training.parallel import Devices
from crnn_jax.training.state import (
    CONV_STACK,
    TrainState,
    learning_rate_schedule,
    make_optimizer,
)

NAMED = 5  # images that a message names
FINE_TUNE = "captcha:fine_tune"  # the recipe of runs that "auto" starts from the pretrained model
RECORDED_VERSIONS = ("crnn_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs, built from its config."""

    config: Config
    alphabet: Alphabet
    preprocessing: Preprocessing
    augmentation: Augmentation
    splits: dict[str, PreparedSplit]  # train, validation, test
    buckets: tuple[int, ...]
    findings: list[Finding]
    plan: TrainingPlan
    model: Any
    model_description: dict[str, Any]
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation
    init_from: str  # what the run starts from, "auto" resolved; "" is scratch
    start_reason: str  # why, of "auto"; else empty
    devices: Devices  # those that share each batch; None: all

    @classmethod
    def build(
        cls, config: Config, devices: Devices = None, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """Reads the data and builds the rest.

        Args:
          config: the recipe; `init_from` "auto" also chooses settings, see `choose_start`.
          devices: those that share each batch; all by default.
          saved: the manifest of the checkpoint that the run continues from, whose choice stays.

        Raises:
          ConfigError, DataError: a setting or an image cannot be used, or they do not match.
        """
        check_config(config)
        augmentation = Augmentation.from_config(config.augment)
        parallel.check_batch_size(config.batch_size, devices)
        dataset = load_dataset(config)
        train = dataset.splits["train"]
        init_from, reason = config.init_from, ""
        if config.init_from == AUTO:
            if saved is None:
                init_from, reason = choose_start(config, dataset.alphabet, len(train))
            else:
                init_from, reason = saved.get("init_from", ""), "as when the run began"
            if init_from:
                config = with_recipe(config, FINE_TUNE, DEFAULT)
                augmentation = Augmentation.from_config(config.augment)
        plan = TrainingPlan(
            train.widths,
            dataset.buckets,
            config.batch_size,
            run_length(config, len(train)),
            config.seed,
            train.split.parts,
            {name: part["weight"] for name, part in parts_of(config.data).items()},
        )
        settings = config.model.to_dict()
        description = {"name": settings.pop("name"), "settings": settings}
        if config.freeze == CONV_STACK:
            settings = {**settings, "freeze_conv_stack": True}
        model = models.create(
            description["name"], dataset.alphabet.num_classes, settings, axis_name=parallel.AXIS
        )
        check_budget(
            Architecture.of(description["name"], settings),
            dataset.alphabet.num_classes,
            dataset.preprocessing.height,
            dataset.preprocessing.max_width,
        )
        learning_rate = learning_rate_schedule(config.optimizer, len(plan))
        return cls(
            config=config,
            alphabet=dataset.alphabet,
            preprocessing=dataset.preprocessing,
            augmentation=augmentation,
            splits=dataset.splits,
            buckets=dataset.buckets,
            findings=dataset.findings,
            plan=plan,
            model=model,
            model_description=description,
            learning_rate=learning_rate,
            optimizer=make_optimizer(
                learning_rate, config.optimizer.clip_norm, config.freeze == CONV_STACK
            ),
            init_from=init_from,
            start_reason=reason,
            devices=devices,
        )

    def manifest(self) -> dict[str, Any]:
        """The settings and facts that say what saved arrays mean, in JSON types."""
        manifest = {
            "config": self.config.to_dict(),
            "alphabet": self.alphabet.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "model": self.model_description,
            "init_from": self.init_from,
            "num_examples": {name: len(self.splits[name]) for name in ("train", "validation")},
            "versions": {name: importlib.metadata.version(name) for name in RECORDED_VERSIONS},
        }
        return json.loads(json.dumps(manifest))  # tuples become lists, as in a saved manifest

    def scratch(self) -> TrainState:
        """A state at step 0, initialized from the seed."""
        shape = (self.preprocessing.height, max(self.buckets), self.preprocessing.channels)
        with_ema = self.config.optimizer.ema_decay > 0
        return TrainState.create(self.model, self.optimizer, shape, self.config.seed, with_ema)

    def initial_state(self) -> tuple[TrainState, str]:
        """A state at step 0, and where it comes from: `init_from`, or scratch.

        Raises: see `TrainedModel.load` and `carry_over`.
        """
        state = self.scratch()
        if not self.init_from:
            return state, "from scratch"
        origin = TrainedModel.load(self.init_from)
        return carry_over(self.config, self.init_from, origin, state, self.alphabet)

    @cached_property
    def _eval_step(self) -> EvalStep:
        return make_eval_step(self.model, self.devices)  # kept, so that each width compiles once

    def evaluate(
        self, variables: Any, split: str, calibration: Calibration | None = None
    ) -> Evaluation:
        """Evaluates replicated variables on a split; see `evaluate_split`."""
        return evaluate_split(
            self._eval_step,
            variables,
            self.splits[split],
            self.alphabet,
            self.buckets,
            self.config.batch_size,
            self.devices,
            calibration,
        )

    def summary(self) -> list[str]:
        """The data in a few lines for the terminal, with warnings about problems in it."""
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        return [
            f"images: {sizes}; widths padded to {', '.join(map(str, self.buckets))} px",
            *table_of_parts(self.splits),
            f"alphabet: {len(self.alphabet.characters)} characters {self.alphabet.characters}",
            *self._start(),
            *(
                f"warning: {finding.message}; the first: {finding.samples[0]}"
                for finding in self.findings
                if finding.severity == "warning"
            ),
        ]

    def _start(self) -> list[str]:
        if not self.start_reason:
            return []
        if not self.init_from:
            return [f"init_from=auto starts from scratch: {self.start_reason}"]
        return [
            f"init_from=auto starts from the pretrained model {self.init_from}, with the settings"
            f" of {FINE_TUNE}: {self.start_reason}; --config.init_from= starts from scratch"
        ]


def run_length(config: Config, images: int) -> int:
    """The epochs of a run on so many images: `config.epochs`, or more to reach `min_steps`."""
    steps_per_epoch = max(1, images // config.batch_size)
    return max(config.epochs, -(-config.min_steps // steps_per_epoch))
