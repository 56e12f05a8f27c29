"""Training: where a run starts, its loop, and how it ends."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from crnn_jax import models, run_data
from crnn_jax.config import Config, check_config
from crnn_jax.data.batching import TrainingBatches
from crnn_jax.data.prepared import Batch, PreparedSplit, device_arrays
from crnn_jax.errors import CheckpointError, ConfigError, TrainingDiverged
from crnn_jax.evaluation import Evaluation
from crnn_jax.experiment import NAMED, Experiment
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.reports.contents import describe_model
from crnn_jax.reports.writing import FOLDER, PAGE, report_evaluation
from crnn_jax.run_data import in_words
from crnn_jax.text.confusions import describe
from crnn_jax.train_step import make_train_step
from crnn_jax.training import parallel
from crnn_jax.training.checkpoint import SCORE, Checkpoints
from crnn_jax.training.interrupt import StopRequest
from crnn_jax.training.manifest import check_same
from crnn_jax.training.milestones import PLATEAU_ADVICE, EarlyStopping, Milestones
from crnn_jax.training.parallel import Devices
from crnn_jax.training.state import TrainState, shortcut_weight_schedule
from crnn_jax.training.throughput import Throughput
from crnn_jax.training.tracing import StepTrace, annotation
from crnn_jax.training.workdir import exclusive
from crnn_jax.training.writers import Writer

SHOWN_IMAGES = 24  # images of a split that are shown with their predictions
DESCRIBED = 10  # the most common errors on the test images that are listed


def train_and_evaluate(config: Config, workdir: str | Path, devices: Devices = None) -> TrainState:
    """Trains as the config says, evaluates and saves along the way.

    A run starts from the newest checkpoint in the workdir, else from `config.init_from`, else from
    scratch. At its end the best checkpoint is evaluated on the test split. SIGTERM, SIGHUP and
    Ctrl-C stop it after the current step, which is saved. If an error ends it, it is saved first.

    Args:
      config: the recipe, such as that of `configs/captcha.py`.
      workdir: folder for checkpoints, metrics.jsonl, predictions.png and TensorBoard's events; it
        is created if missing.
      devices: all devices of this machine by default.

    Returns:
      The final state, on the host.

    Raises:
      ConfigError, DataError, CheckpointError: before the first step, if something does not fit;
        later, if the workdir cannot be written or images can no longer be read.
      TrainingDiverged: too many steps in a row were not finite.
    """
    check_config(config)  # before the workdir is made
    workdir = Path(workdir)
    with exclusive(workdir), Checkpoints(workdir, config.keep) as checkpoints:
        steps = checkpoints.newest_first()
        saved = checkpoints.first_undamaged(steps, checkpoints.manifest) if steps else None
        experiment = Experiment.build(config, devices, saved)
        with StopRequest() as stop:
            state, origin = start(experiment, workdir, checkpoints)
            plan, first_step = experiment.plan, int(state.step)
            with Writer(workdir, len(plan), plan.steps_per_epoch, first_step) as writer:
                describe_run(experiment, origin, writer)
                state, ending = run(experiment, state, checkpoints, writer, stop)
                if stop.received is None:
                    # Every evaluation makes a line, so the tested checkpoint is still the best.
                    if writer.newest_split == "test":
                        ending = (
                            f"this run is finished, it {ending}; its result on the test images is"
                            f" the last line of {writer.metrics_file}"
                        )
                    else:
                        test(experiment, state, checkpoints, writer)
                writer.say(ending)
    stop.deliver()
    return state


def start(
    experiment: Experiment, workdir: Path, checkpoints: Checkpoints
) -> tuple[TrainState, str]:
    """The state that a run starts with, and where it comes from.

    Raises:
      CheckpointError: the checkpoints belong to another run, or cannot be read.
      ConfigError: the newest checkpoint is beyond the end of the run.
    """
    steps = checkpoints.newest_first()
    if not steps:
        return experiment.initial_state()
    like = jax.eval_shape(experiment.scratch)

    def restore(step: int) -> TrainState:
        check_same(workdir, checkpoints.manifest(step), experiment.manifest())
        return checkpoints.restore(step, like)

    state = checkpoints.first_undamaged(steps, restore)
    step, total_steps = int(state.step), len(experiment.plan)
    if step > total_steps:
        raise ConfigError(
            f"{workdir} is at step {step:,} already, and this config ends after {total_steps:,};"
            " choose another --workdir, or raise --config.epochs"
        )
    return state, f"continuing after step {step:,}"


def describe_run(experiment: Experiment, origin: str, writer: Writer) -> None:
    """Prints the network, the data, and the length of the run."""
    preprocessing = experiment.preprocessing
    shape = (preprocessing.height, max(experiment.buckets), preprocessing.channels)
    writer.say(models.summary(experiment.model, shape))
    for line in experiment.summary():
        writer.say(line)
    config, plan = experiment.config, experiment.plan
    longer = plan.epochs > config.epochs
    why = f" (not {config.epochs}, because of min_steps={config.min_steps})" if longer else ""
    writer.say(
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
    """The training loop: takes the remaining steps, unless it is stopped or stops early.

    Returns:
      The last state, on the host, and a line that says why the run ended there.
    """
    config, plan, train = experiment.config, experiment.plan, experiment.splits["train"]
    train_step = make_train_step(
        experiment.model,
        experiment.optimizer,
        config.seed,
        shortcut_weight_schedule(config.optimizer, len(plan)),
        config.optimizer.ema_decay,
        experiment.devices,
    )
    first_step = done = int(state.step)  # `done`: the steps that `state` has taken
    milestones = Milestones.from_config(config, len(plan))
    early_stopping = EarlyStopping.resume(
        config.patience,
        config.stop_on_plateau,
        checkpoints.manifest(first_step) if first_step else {},
    )
    throughput = Throughput()
    state = parallel.replicate(state, experiment.devices)
    metrics: dict[str, jax.Array] = {}

    def save_unscored() -> None:
        if done and done not in checkpoints.newest_first():
            save(experiment, state, done, None, early_stopping, checkpoints)

    with (
        TrainingBatches(
            *(train, plan, experiment.buckets, experiment.augmentation),
            *(first_step, config.data.workers),
        ) as batches,
        saving_before_an_error(save_unscored),
        StepTrace(writer.workdir / "trace", config.trace_steps, writer.say) as trace,
    ):
        stop.then = batches.stop
        for step in range(first_step + 1, len(plan) + 1):
            if early_stopping.reason:
                ending = f"ended after step {step - 1:,} of {len(plan):,}: {early_stopping.reason}"
                break
            with throughput.waiting():
                batch = next(batches, None)
            if batch is None:  # stopped while it waited
                save_unscored()
                ending = stopped_at(done)
                break
            warn_of_missing(batch, train, writer)
            previous = metrics
            width = batch["images"].shape[2]
            with throughput.step(width, previous) as compiled, annotation(step):
                arrays = parallel.shard(device_arrays(batch), experiment.devices)
                state, metrics = train_step(state, arrays)
            done = step
            # At most two steps run at a time, and the metrics of the previous one are at hand.
            jax.block_until_ready(previous)
            throughput.add(metrics, len(batch["indices"]))
            stopping = stop.received is not None  # once: a later signal stops the next step
            check_divergence(experiment, step - 1, previous)
            with throughput.paused():
                trace.after_step(metrics, compiled)
            if step > first_step + 1:  # the first step has no time of its own
                writer.progress(step, **throughput.so_far())
            if milestones.log_at(step):
                record(experiment, step, throughput.close(), writer)
            # A stop does not skip an evaluation, which may find the best checkpoint.
            if milestones.evaluate_at(step) or stopping:
                jax.block_until_ready(metrics)
                with throughput.paused():
                    found = None
                    if milestones.evaluate_at(step):
                        found = validate(experiment, state, step, writer)
                        due = milestones.plateau_at(step) and not experiment.init_from
                        early_stopping.update(found.metrics[SCORE], found.metrics["cer"], due)
                    save(experiment, state, step, found, early_stopping, checkpoints)
            if stopping:
                ending = stopped_at(done)
                break
        else:
            ending = f"ended after all {len(plan):,} steps"
            if early_stopping.on_plateau and config.stop_on_plateau:
                ending += f": {PLATEAU_ADVICE}"
    return parallel.unreplicate(state), ending


@contextlib.contextmanager
def saving_before_an_error(save: Callable[[], None]) -> Iterator[None]:
    """A context that calls `save` before an error leaves it, such as an image that is gone."""
    try:
        yield
    except (TrainingDiverged, CheckpointError):
        raise  # the state is worth nothing, or saving is what failed
    except Exception:
        with contextlib.suppress(Exception):  # the first error says more
            save()
        raise


def stopped_at(step: int) -> str:
    """A line that says where a signal has ended a run."""
    if not step:
        return "stopped before the first step"
    return f"stopped and saved at step {step:,}; the same command continues from here"


def warn_of_missing(batch: Batch, train: PreparedSplit, writer: Writer) -> None:
    """Names the images of a batch that could not be read."""
    for index in batch["indices"][batch["missing"]]:
        writer.say(f"warning: {train.split.names[index]} can no longer be read; it is left out")


def check_divergence(experiment: Experiment, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Raises TrainingDiverged if too many steps in a row, up to this one, were not finite."""
    max_skipped = experiment.config.max_skipped
    if metrics and int(metrics["skipped_in_row"][0]) >= max_skipped:
        names = experiment.splits["train"].split.names
        last = ", ".join(names[index] for index in experiment.plan[step - 1][:NAMED])
        raise TrainingDiverged(
            f"loss or gradient was not finite in {max_skipped} steps in a row, the last on {last}"
            " ...; lower --config.optimizer.learning_rate, or look at these images"
        )


def record(experiment: Experiment, step: int, metrics: Mapping[str, float], writer: Writer) -> None:
    """Records training metrics, with the learning rate of the step."""
    updates = step - 1 - int(metrics["skipped"])  # made before this step
    rate: Any = experiment.learning_rate(max(0, updates))
    epoch = step / experiment.plan.steps_per_epoch
    writer.metrics(step, epoch, "train", {**metrics, "learning_rate": float(rate)})


def validate(experiment: Experiment, state: TrainState, step: int, writer: Writer) -> Evaluation:
    """Evaluates a replicated state on the validation images, and fits a calibration on them."""
    result = experiment.evaluate(state.eval_variables, "validation")
    report(experiment, step, "validation", result, writer)
    return result


def save(
    experiment: Experiment,
    state: TrainState,
    step: int,
    found: Evaluation | None,
    early_stopping: EarlyStopping,
    checkpoints: Checkpoints,
) -> None:
    """Saves a replicated state; `found` is None if it was not evaluated."""
    # Seed and step determine the order of the data and the random keys.
    epoch = step / experiment.plan.steps_per_epoch
    position = {"step": step, "epoch": epoch, "seed": experiment.config.seed}
    manifest = {**experiment.manifest(), "position": position, **early_stopping.to_manifest()}
    if found:
        manifest["calibration"] = found.calibration.to_dict()
    score = found.metrics[SCORE] if found else None
    checkpoints.save(parallel.unreplicate(state), manifest, score)


def test(
    experiment: Experiment, state: TrainState, checkpoints: Checkpoints, writer: Writer
) -> None:
    """Evaluates the best checkpoint on the test images."""
    like = state.eval_variables
    step, variables = checkpoints.first_undamaged(
        checkpoints.best_first(), lambda step: (step, checkpoints.restore_model(step, like))
    )
    calibration = Calibration.from_dict(checkpoints.manifest(step).get("calibration"))
    replicated = parallel.replicate(variables, experiment.devices)
    result = experiment.evaluate(replicated, "test", calibration)
    report(experiment, step, "test", result, writer)
    if result.confusions:
        writer.say(f"most common errors: {describe(result.confusions, DESCRIBED)}")
    images = in_words(run_data.describe(experiment.config.data))
    model = describe_model(
        name=str(writer.workdir),
        step=step,
        description=experiment.model_description,
        variables=variables,
        alphabet=experiment.alphabet,
        preprocessing=experiment.preprocessing,
        config=experiment.manifest()["config"],
        trained_on=images,
    )
    folder = writer.workdir / FOLDER
    written = report_evaluation(
        *(folder, model, images, "test", experiment.splits, result.texts, result.confidences),
        devices=experiment.devices,
        workdir=writer.workdir,
    )
    if written:
        writer.say(f"report: {folder / PAGE}")


def report(
    experiment: Experiment, step: int, name: str, result: Evaluation, writer: Writer
) -> None:
    """Records the evaluation of a split, and shows its first images with their predictions."""
    writer.metrics(step, step / experiment.plan.steps_per_epoch, name, result.metrics)
    split = experiment.splits[name]
    first = range(min(SHOWN_IMAGES, len(split)))
    images = {i: image for i in first if (image := split.image(i)) is not None}
    if images:
        texts = [result.texts[i] or "" for i in images]
        writer.predictions(step, list(images.values()), texts, [split.labels[i] for i in images])
