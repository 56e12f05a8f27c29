"""Training: the step, and the loop around it."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from crnn_jax.config import Config
from crnn_jax.data.batching import training_batches
from crnn_jax.data.prepared import PreparedSplit, device_arrays
from crnn_jax.errors import TrainingDiverged
from crnn_jax.evaluate import Evaluation
from crnn_jax.experiment import NAMED, Experiment
from crnn_jax.text.confusions import describe
from crnn_jax.training import parallel
from crnn_jax.training.checkpoint import SCORE, Checkpoints
from crnn_jax.training.interrupt import StopRequest
from crnn_jax.training.losses import ctc_loss
from crnn_jax.training.manifest import check_same
from crnn_jax.training.state import TrainState, apply_if_finite, shortcut_weight_schedule
from crnn_jax.training.workdir import exclusive
from crnn_jax.training.writers import Writer, model_summary

PICTURED = 24  # test pictures shown with what was read in them
DESCRIBED = 10  # errors on the test pictures, the commonest
PACED = 200  # steps whose mean time tells how long the rest will take
PLATEAU = 0.4  # share of a run by which CTC has left its blank-only plateau, or hardly ever will


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    shortcut_weight: optax.Schedule = lambda step: 0.0,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """A pmapped step: a replicated state and a sharded batch give the next state and figures.

    The loss is the mean over the global batch's samples whose label can be aligned. Figures are
    the same on each device: `loss`, `gradient_norm`, `skipped` in all and `skipped_in_row`. Of a
    network with a shortcut the gradient is that of a mixture of two losses, its shortcut's with the
    weight at this step, in [0, 1], and its own with the rest; the figure is its own.
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS))

        def loss_shares(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            outputs: Any = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["images"],
                batch["widths"],
                train=True,
                mutable=["batch_stats", "shortcut"],
                rngs={"dropout": key},
            )
            (logits, lengths), changed = outputs
            shortcut = changed.get("shortcut", {}).get("logits", ())
            of_heads = [
                ctc_loss(head, lengths, batch["labels"], batch["label_lengths"])
                for head in (logits, *shortcut)
            ]
            count = jax.lax.psum(of_heads[0][1].sum(), parallel.AXIS)
            # This device's share of the global mean: the shares, and their gradients, add up.
            shares = [losses.sum() / jnp.maximum(count, 1) for losses, _ in of_heads]
            mixed = shares[0]
            if shortcut:
                weight = jnp.asarray(shortcut_weight(state.step))
                mixed = (1 - weight) * shares[0] + weight * shares[1]
            return mixed, (shares[0], changed.get("batch_stats", {}))

        (_, (loss, batch_stats)), gradients = jax.value_and_grad(loss_shares, has_aux=True)(
            state.params
        )
        loss, gradients = jax.lax.psum((loss, gradients), parallel.AXIS)
        norm = optax.tree.norm(gradients)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        updated = state.replace(
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            skipped_in_row=jnp.zeros_like(state.skipped_in_row),
        )
        state = apply_if_finite(state, updated, jnp.isfinite(loss) & jnp.isfinite(norm))
        figures = {
            "loss": loss,
            "gradient_norm": norm,
            "skipped": state.skipped,
            "skipped_in_row": state.skipped_in_row,
        }
        return state, figures

    return parallel.pmap(train_step, donate_first=True)


def train_and_evaluate(config: Config, workdir: Path) -> TrainState:
    """Trains as the config says, evaluates and saves along the way.

    A run begins from the newest checkpoint in the workdir, else from `config.init_from`, else
    from scratch. It ends with the best checkpoint's evaluation on the test split. SIGTERM and
    Ctrl-C save before they act.

    Returns:
      The final state, on the host.

    Raises:
      ConfigError, DataError, CheckpointError: before the first step, if something does not fit.
      TrainingDiverged: too many steps in a row were not finite.
    """
    experiment = Experiment.build(config)
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
            width = max(experiment.buckets)
            writer.say(model_summary(experiment.model, prep.height, width, prep.channels))
            for line in (*experiment.summary(), beginning):
                writer.say(line)
            state, ending = run(experiment, parallel.replicate(state), checkpoints, writer, stop)
            if stop.received is None:
                like = {"params": state.params, "batch_stats": state.batch_stats}
                best, variables = checkpoints.first_whole(
                    checkpoints.best_first(),
                    lambda step: (step, checkpoints.restore_model(step, like)),
                )
                variables = parallel.replicate(variables)
                result = experiment.evaluate(variables, "test")
                writer.metrics(best, best / plan.steps_per_epoch, "test", result.metrics)
                show_pictures(writer, best, splits["test"], result)
                if result.confusions:
                    writer.say(f"commonest errors: {describe(result.confusions, DESCRIBED)}")
            writer.say(ending)
    stop.deliver()
    return state


def begin(
    experiment: Experiment, workdir: Path, checkpoints: Checkpoints
) -> tuple[TrainState, str]:
    """The state a run begins with, and a line that says where it comes from."""
    steps = checkpoints.newest_first()
    if steps:
        like = jax.eval_shape(experiment.scratch)

        def restore(step: int) -> TrainState:
            check_same(workdir, checkpoints.manifest(step), experiment.manifest())
            return checkpoints.restore(step, like)

        state = checkpoints.first_whole(steps, restore)
        origin = f"going on after step {int(state.step):,}"
    else:
        state, origin = experiment.initial_state()
    plan = experiment.plan
    return state, (
        f"{plan.epochs} epochs of {plan.steps_per_epoch:,} steps on {parallel.description()},"
        f" {origin}"
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
    )
    first_step = int(parallel.unreplicate(state.step))
    batches = training_batches(
        train, plan, experiment.buckets, experiment.augmentation, first_step, config.data.workers
    )
    # A small set's run is made longer by min_steps, and so are its pauses between evaluations.
    evaluation_interval = max(1, config.eval_every * len(plan) // config.epochs)
    # As it was when the newest checkpoint was saved, also if the best has been lost since.
    saved = checkpoints.manifest(first_step) if first_step else {}
    best_score: float = saved.get("best_score") or 0.0
    since_best: int = saved.get("since_best", 0)  # evaluations
    ending = f"ended after all {len(plan):,} steps"
    window = Window()
    compiled: set[int] = set()
    previous: dict[str, jax.Array] = {}
    for step in range(first_step + 1, len(plan) + 1):
        if 0 < config.patience <= since_best:
            ending = (
                f"ended after step {step - 1:,} of {len(plan):,}: {since_best} evaluations in a row"
                f" were no better than {100 * best_score:.2f} %, see config.patience"
            )
            break
        epoch = step / plan.steps_per_epoch
        # The first batch takes as long as reading ahead takes to begin; that is starting, too.
        with window.waiting() if compiled else window.paused():
            batch = next(batches)
        for index in batch["indices"][batch["unread"]]:
            writer.say(f"warning: {train.split.names[index]} cannot be read any more; left out")
        width = batch["images"].shape[2]
        if width not in compiled:
            # Else the step before would be done while the clock stands still, in no time.
            jax.block_until_ready(previous)
        with window.paused() if width not in compiled else contextlib.nullcontext():
            state, figures = train_step(state, parallel.shard(device_arrays(batch)))
        compiled.add(width)
        # Waiting for the step before keeps at most two under way, and its figures are at hand.
        jax.block_until_ready(previous)
        window.add(figures, len(batch["indices"]))
        # Read once: a signal that comes after this stops the next step.
        stopping = stop.received is not None
        if previous and int(previous["skipped_in_row"][0]) >= config.max_skipped:
            names = [train.split.names[index] for index in plan[step - 2][:NAMED]]
            raise TrainingDiverged(
                f"loss or gradient was not finite in {config.max_skipped} steps in a row, the last"
                f" on {', '.join(names)} ...; lower --config.optimizer.learning_rate, or look at"
                " these pictures"
            )
        previous = figures
        finished = step == len(plan)
        if step > first_step + 1:  # of the first step alone no time is known
            writer.progress(step, **window.so_far())
        if step % config.log_every == 0 or finished:
            writer.metrics(step, epoch, "train", window.close())
        evaluating = step % evaluation_interval == 0 or finished
        if evaluating or stopping:
            jax.block_until_ready(figures)
            with window.paused():
                score = None
                # Also before a stop: else it would have no say in which checkpoint is the best.
                if evaluating:
                    variables = {"params": state.params, "batch_stats": state.batch_stats}
                    result = experiment.evaluate(variables, "validation")
                    score = result.metrics[SCORE]
                    writer.metrics(step, epoch, "validation", result.metrics)
                    show_pictures(writer, step, experiment.splits["validation"], result)
                    # Patience begins with the first text that is read: CTC may take epochs to
                    # leave its blank-only plateau, on which all scores are 0.
                    since_best = 0 if score > best_score or not best_score else since_best + 1
                    best_score = max(best_score, score)
                    due = step - evaluation_interval < PLATEAU * len(plan) <= step
                    if due and not best_score and not config.init_from:
                        writer.say(
                            f"warning: nothing is read after {step:,} of {len(plan):,} steps, and"
                            " it may stay so; with so few or such pictures start from a model that"
                            " reads, as configs/captcha.py:fine_tune does, or with"
                            " --config.init_from"
                        )
                manifest = {
                    **experiment.manifest(),
                    # The order of the data and the random keys are functions of seed and step.
                    "position": {"step": step, "epoch": epoch, "seed": config.seed},
                    "best_score": best_score,
                    "since_best": since_best,
                }
                checkpoints.save(parallel.unreplicate(state), manifest, score)
        if stopping:
            ending = f"stopped and saved at step {step:,}; the same command goes on from here"
            break
    return parallel.unreplicate(state), ending


def show_pictures(writer: Writer, step: int, split: PreparedSplit, result: Evaluation) -> None:
    """Shows the first pictures of a split with what was read in them."""
    first = range(min(PICTURED, len(split)))
    pictures = {i: picture for i in first if (picture := split.picture(i)) is not None}
    if pictures:
        texts, labels = ([of[i] for i in pictures] for of in (result.texts, split.split.labels))
        writer.pictures(step, list(pictures.values()), texts, labels)


class Window:
    """Training figures since they were last recorded, and the pace of the steps.

    Its clock stands still while the run starts, compiles a program, evaluates or saves. A step is
    added while it is under way, and the time since then is the next one's; so the first has none,
    and its images do not count.
    """

    def __init__(self) -> None:
        self._stood_still = 0.0  # seconds
        self._step_seconds: deque[float] = deque(maxlen=PACED)
        self._last_step: float | None = None
        self._open()

    def _open(self) -> None:
        self._figures: list[dict[str, jax.Array]] = []
        self._images = 0
        self._waited = 0.0
        self._start = self._now()

    def _now(self) -> float:
        return time.monotonic() - self._stood_still

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of all figures."""
        start = time.monotonic()
        yield
        self._stood_still += time.monotonic() - start

    def add(self, figures: dict[str, jax.Array], images: int) -> None:
        """Adds a step."""
        self._figures.append(figures)
        now = self._now()
        if self._last_step is not None:
            self._images += images
            self._step_seconds.append(now - self._last_step)
        self._last_step = now

    def so_far(self) -> dict[str, Any]:
        """Loss and skipped steps as of the step before the newest one; speed; waiting.

        `images_per_second` and `waiting`, a share of the time, are of this window,
        `seconds_per_step` of the last PACED steps; `skipped` counts since the run began.
        """
        seconds = max(self._now() - self._start, 1e-9)
        ready = self._figures[-2 if len(self._figures) > 1 else -1]
        return {
            "loss": float(ready["loss"][0]),
            "images_per_second": self._images / seconds,
            "waiting": self._waited / seconds,
            "seconds_per_step": sum(self._step_seconds) / max(1, len(self._step_seconds)),
            "skipped": int(ready["skipped"][0]),
        }

    def close(self) -> dict[str, float]:
        """The window's figures, losses and gradient norms as means; a new window begins."""
        losses = [float(figures["loss"][0]) for figures in self._figures]
        norms = [float(figures["gradient_norm"][0]) for figures in self._figures]
        values = {
            **self.so_far(),
            "loss": sum(losses) / len(losses),
            "gradient_norm": sum(norms) / len(norms),
            "seconds": self._now() - self._start,
        }
        self._open()
        return values
