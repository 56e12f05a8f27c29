"""Training: the step, and the loop around it."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from crnn_jax import models
from crnn_jax.config import Config
from crnn_jax.data.batching import training_batches
from crnn_jax.data.prepared import PreparedSplit, device_arrays
from crnn_jax.errors import ConfigError, TrainingDiverged
from crnn_jax.evaluation import Evaluation
from crnn_jax.experiment import NAMED, Experiment
from crnn_jax.text.confusions import describe
from crnn_jax.training import parallel
from crnn_jax.training.checkpoint import SCORE, Checkpoints
from crnn_jax.training.interrupt import StopRequest
from crnn_jax.training.losses import ctc_loss
from crnn_jax.training.manifest import check_same
from crnn_jax.training.parallel import Devices
from crnn_jax.training.state import TrainState, apply_if_finite, shortcut_weight_schedule
from crnn_jax.training.throughput import Throughput
from crnn_jax.training.workdir import exclusive
from crnn_jax.training.writers import Writer

SHOWN_IMAGES = 24  # test images shown with what was read in them
DESCRIBED = 10  # errors on the test images, the commonest
PLATEAU = 0.4  # share of a run by which CTC has left its blank-only plateau, or hardly ever will


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    shortcut_weight: optax.Schedule = lambda step: 0.0,
    average: float = 0.0,
    devices: Devices = None,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """A pmapped step: a replicated state and a sharded batch give the next state and metrics.

    The loss is the mean over the global batch's samples whose label can be aligned. Metrics are
    the same on each device: `loss`, `gradient_norm`, `skipped` in all and `skipped_in_row`. Of a
    network with a shortcut the gradient is that of a mixture of two losses, its shortcut's with the
    weight at this step, in [0, 1], and its own with the rest; the metric is its own. `average` is
    the decay of the moving average that the model is, if the state has one.
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        # The same on all devices: what is random depends on a sample's place in the whole batch.
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        before = state.moved

        def loss_shares(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            outputs: Any = model.apply(
                {"params": params, "batch_stats": before["batch_stats"]},
                batch["images"],
                batch["widths"],
                train=True,
                mutable=["batch_stats", "shortcut"],
                rngs={"dropout": key},
            )
            (logits, lengths), changed = outputs
            shortcut = changed.get("shortcut", {}).get("logits", ())
            of_heads = [
                ctc_loss(head, lengths, batch["label_ids"], batch["label_lengths"])
                for head in (logits, *shortcut)
            ]
            mask = of_heads[0][1] & batch["mask"]
            count = jax.lax.psum(mask.sum(), parallel.AXIS)
            # This device's share of the global mean: the shares, and their gradients, add up.
            shares = [
                jnp.where(mask, losses, 0).sum() / jnp.maximum(count, 1) for losses, _ in of_heads
            ]
            mixed = shares[0]
            if shortcut:
                weight = jnp.asarray(shortcut_weight(state.step))
                mixed = (1 - weight) * shares[0] + weight * shares[1]
            return mixed, (shares[0], changed.get("batch_stats", {}))

        (_, (loss, batch_stats)), gradients = jax.value_and_grad(loss_shares, has_aux=True)(
            before["params"]
        )
        loss, gradients = jax.lax.psum((loss, gradients), parallel.AXIS)
        norm = optax.tree.norm(gradients)

        updates, opt_state = optimizer.update(gradients, state.opt_state, before["params"])
        params = optax.apply_updates(before["params"], updates)
        updated = state.moved_to({"params": params, "batch_stats": batch_stats}, average).replace(
            opt_state=opt_state, skipped_in_row=jnp.zeros_like(state.skipped_in_row)
        )
        state = apply_if_finite(state, updated, jnp.isfinite(loss) & jnp.isfinite(norm))
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "skipped": state.skipped,
            "skipped_in_row": state.skipped_in_row,
        }
        return state, metrics

    return parallel.pmap(train_step, devices, donate_first=True)


def train_and_evaluate(config: Config, workdir: str | Path, devices: Devices = None) -> TrainState:
    """Trains as the config says on the devices given, or on all; evaluates and saves on the way.

    A run begins from the newest checkpoint in the workdir, else from `config.init_from`, else
    from scratch. It ends with the best checkpoint's evaluation on the test split. SIGTERM and
    Ctrl-C save before they act.

    Returns:
      The final state, on the host.

    Raises:
      ConfigError, DataError, CheckpointError: before the first step, if something does not fit.
      TrainingDiverged: too many steps in a row were not finite.
    """
    workdir = Path(workdir)
    experiment = Experiment.build(config, devices)
    plan, splits = experiment.plan, experiment.splits
    with (
        exclusive(workdir),
        Checkpoints(workdir, config.keep) as checkpoints,
        StopRequest() as stop,
    ):
        state, beginning = begin(experiment, workdir, checkpoints)
        first_step = int(state.step)
        with Writer(workdir, len(plan), plan.steps_per_epoch, first_step) as writer:
            prep = experiment.preprocessing
            shape = (prep.height, max(experiment.buckets), prep.channels)
            writer.say(models.summary(experiment.model, shape))
            for line in (*experiment.summary(), beginning):
                writer.say(line)
            state = parallel.replicate(state, devices)
            state, ending = run(experiment, state, checkpoints, writer, stop)
            if stop.received is None:
                like = state.model
                best, variables = checkpoints.first_whole(
                    checkpoints.best_first(),
                    lambda step: (step, checkpoints.restore_model(step, like)),
                )
                variables = parallel.replicate(variables, devices)
                result = experiment.evaluate(variables, "test")
                writer.metrics(best, best / plan.steps_per_epoch, "test", result.metrics)
                show_images(writer, best, splits["test"], result)
                if result.confusions:
                    writer.say(f"commonest errors: {describe(result.confusions, DESCRIBED)}")
            writer.say(ending)
    stop.deliver()
    return state


def begin(
    experiment: Experiment, workdir: Path, checkpoints: Checkpoints
) -> tuple[TrainState, str]:
    """The state a run begins with, and a line that says where it comes from.

    Raises:
      CheckpointError: what was saved is of another run, or cannot be read.
      ConfigError: what was saved is further than the run is to go.
    """
    steps = checkpoints.newest_first()
    if steps:
        like = jax.eval_shape(experiment.scratch)

        def restore(step: int) -> TrainState:
            check_same(workdir, checkpoints.manifest(step), experiment.manifest())
            return checkpoints.restore(step, like)

        state = checkpoints.first_whole(steps, restore)
        if int(state.step) > len(experiment.plan):
            raise ConfigError(
                f"{workdir} is at step {int(state.step):,} already, and with this config a run ends"
                f" after {len(experiment.plan):,}; choose another --workdir, or more"
                " --config.epochs"
            )
        origin = f"going on after step {int(state.step):,}"
    else:
        state, origin = experiment.initial_state()
    config, plan = experiment.config, experiment.plan
    longer = plan.epochs > config.epochs
    why = f" (not {config.epochs}, for min_steps={config.min_steps})" if longer else ""
    return state, (
        f"{plan.epochs} epochs{why} of {plan.steps_per_epoch:,} steps"
        f" on {parallel.description(experiment.devices)}, {origin}"
    )


def run(
    experiment: Experiment,
    state: TrainState,
    checkpoints: Checkpoints,
    writer: Writer,
    stop: StopRequest,
) -> tuple[TrainState, str]:
    """Takes the steps that are left, unless it is stopped or `config.patience` ends.

    Returns:
      The state, on the host, and a line that says why it is the last.
    """
    config, plan, train = experiment.config, experiment.plan, experiment.splits["train"]
    train_step = make_train_step(
        experiment.model,
        experiment.optimizer,
        config.seed,
        shortcut_weight_schedule(config.optimizer, len(plan)),
        config.optimizer.average,
        experiment.devices,
    )
    first_step = int(parallel.unreplicate(state.step))
    batches = training_batches(
        train, plan, experiment.buckets, experiment.augmentation, first_step, config.data.workers
    )
    # A small set's run is made longer by min_steps, and so are its pauses between evaluations.
    evaluation_interval = max(1, config.eval_every * len(plan) // config.epochs)
    best = BestScore.of(checkpoints.manifest(first_step) if first_step else {})
    ending = f"ended after all {len(plan):,} steps"
    throughput = Throughput()
    compiled: set[int] = set()
    previous: dict[str, jax.Array] = {}
    for step in range(first_step + 1, len(plan) + 1):
        if 0 < config.patience <= best.evaluations_since:
            ending = (
                f"ended after step {step - 1:,} of {len(plan):,}: {best.evaluations_since}"
                f" evaluations in a row were no better than {100 * best.score:.2f} %, see"
                " config.patience"
            )
            break
        epoch = step / plan.steps_per_epoch
        # The first batch takes as long as reading ahead takes to begin; that is starting, too.
        with throughput.waiting() if compiled else throughput.paused():
            batch = next(batches)
        for index in batch["indices"][batch["missing"]]:
            writer.say(f"warning: {train.split.names[index]} cannot be read any more; left out")
        width = batch["images"].shape[2]
        if width not in compiled:
            # Else the step before would be done while the clock stands still, in no time.
            jax.block_until_ready(previous)
        with throughput.paused() if width not in compiled else contextlib.nullcontext():
            arrays = parallel.shard(device_arrays(batch), experiment.devices)
            state, metrics = train_step(state, arrays)
        compiled.add(width)
        # Waiting for the step before keeps at most two under way, and its metrics are at hand.
        jax.block_until_ready(previous)
        throughput.add(metrics, len(batch["indices"]))
        # Read once: a signal that comes after this stops the next step.
        stopping = stop.received is not None
        if previous and int(previous["skipped_in_row"][0]) >= config.max_skipped:
            names = [train.split.names[index] for index in plan[step - 2][:NAMED]]
            raise TrainingDiverged(
                f"loss or gradient was not finite in {config.max_skipped} steps in a row, the last"
                f" on {', '.join(names)} ...; lower --config.optimizer.learning_rate, or look at"
                " these images"
            )
        previous = metrics
        finished = step == len(plan)
        if step > first_step + 1:  # of the first step alone no time is known
            writer.progress(step, **throughput.so_far())
        if step % config.log_every == 0 or finished:
            writer.metrics(step, epoch, "train", throughput.close())
        evaluating = step % evaluation_interval == 0 or finished
        if evaluating or stopping:
            jax.block_until_ready(metrics)
            with throughput.paused():
                score = None
                # Also before a stop: else it would have no say in which checkpoint is the best.
                if evaluating:
                    score = validate(experiment, state, writer, step)
                    best.update(score)
                    due = step - evaluation_interval < PLATEAU * len(plan) <= step
                    if due and not best.score and not config.init_from:
                        writer.say(
                            f"warning: nothing is read after {step:,} of {len(plan):,} steps, and"
                            " it may stay so; with so few or such images start from a model that"
                            " reads, as configs/captcha.py:fine_tune does, or with"
                            " --config.init_from"
                        )
                # The order of the data and the random keys are functions of seed and step.
                position = {"step": step, "epoch": epoch, "seed": config.seed}
                manifest = {**experiment.manifest(), "position": position, **best.to_manifest()}
                checkpoints.save(parallel.unreplicate(state), manifest, score)
        if stopping:
            ending = f"stopped and saved at step {step:,}; the same command goes on from here"
            break
    return parallel.unreplicate(state), ending


@dataclass
class BestScore:
    """The best exact match on the validation images, in [0, 1], and how long ago that was.

    Every checkpoint's manifest has it: a run that goes on knows it also if the best is lost.
    """

    score: float = 0.0
    evaluations_since: int = 0

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        """As it was when a checkpoint was saved; checkpoints of earlier versions lack a part."""
        return cls(manifest.get("best_score") or 0.0, manifest.get("since_best", 0))

    def to_manifest(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"best_score": self.score, "since_best": self.evaluations_since}

    def update(self, score: float) -> None:
        """Takes in an evaluation.

        They are counted from the first on that read a text right: CTC may take epochs to leave its
        blank-only plateau, on which all scores are 0.
        """
        no_better = bool(self.score) and score <= self.score
        self.evaluations_since = self.evaluations_since + 1 if no_better else 0
        self.score = max(self.score, score)


def validate(experiment: Experiment, state: TrainState, writer: Writer, step: int) -> float:
    """Reads, records and shows the validation images; their exact match, in [0, 1]."""
    result = experiment.evaluate(state.model, "validation")
    writer.metrics(step, step / experiment.plan.steps_per_epoch, "validation", result.metrics)
    show_images(writer, step, experiment.splits["validation"], result)
    return result.metrics[SCORE]


def show_images(writer: Writer, step: int, split: PreparedSplit, result: Evaluation) -> None:
    """Shows the first images of a split with what was read in them."""
    first = range(min(SHOWN_IMAGES, len(split)))
    images = {i: image for i in first if (image := split.image(i)) is not None}
    if images:
        texts = [result.texts[i] or "" for i in images]
        writer.predictions(step, list(images.values()), texts, [split.labels[i] for i in images])
