"""Runs in processes of their own that are killed, stopped, or started twice; locks and devices."""

import errno
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from crnn_jax import train
from crnn_jax.errors import CheckpointError, ConfigError, DataError
from crnn_jax.scoring import evaluate
from crnn_jax.training.checkpoint import Checkpoints
from crnn_jax.training.interrupt import StopRequest
from crnn_jax.training.state import TrainState
from crnn_jax.training.workdir import exclusive, writing
from tests.test_train import IMAGES, small_config

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds until a test gives up on a process; decides nothing else
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is handled even if the tests were started with it ignored, as in the background."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended early with {process.returncode}"
        assert time.monotonic() < end
        time.sleep(0.01)


# Processes


def start(workdir: Path, log: Path) -> subprocess.Popen[str]:
    """The run of the commands' tests and of chaos.py, so that all share the compiled programs."""
    command = [
        *(sys.executable, "-m", "crnn_jax.main", "--config=configs/tiny.py"),
        *("--config.data.source=folder", f"--config.data.dir={IMAGES}"),
        *("--config.data.validation_fraction=0.2", "--config.batch_size=8"),
        "--config.optimizer.warmup=0.0",
        *("--config.epochs=100000", "--config.eval_every=99999", f"--workdir={workdir}"),
    ]
    one_device = "--xla_force_host_platform_device_count=1"
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {one_device}"}
    with log.open("w") as stderr:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stderr, text=True)


@posix
def test_a_stopped_run_saves_off_the_interval_and_a_second_run_is_refused(tmp_path: Path) -> None:
    """SIGTERM while a second run starts, then Ctrl-C to the run that continues."""
    workdir, log = tmp_path / "run", tmp_path / "log"
    metrics = workdir / "metrics.jsonl"
    steps = [0]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(workdir, log)
        try:
            size = metrics.stat().st_size if metrics.exists() else 0
            wait_for(lambda size=size: metrics.exists() and metrics.stat().st_size > size, process)
            if number == signal.SIGTERM:
                second = start(workdir, tmp_path / "second")
                assert second.wait(PATIENCE) == 1
                error = (tmp_path / "second").read_text().splitlines()[-1]
                assert error.startswith("error: ") and str(workdir) in error
                assert f"process {process.pid} on {socket.gethostname()}" in error
                assert "choose another --workdir" in error
            process.send_signal(number)
            assert process.wait(PATIENCE) == code
        finally:
            process.kill()
        said = log.read_text()
        assert "Traceback" not in said and "error" not in said
        found = re.search(r"stopped and saved at step ([\d,]+)", said)
        assert found
        assert ("from scratch" if steps == [0] else f"after step {steps[-1]:,}") in said
        steps.append(int(found[1].replace(",", "")))
        assert (workdir / "checkpoints" / str(steps[-1])).is_dir()
    assert steps[0] < steps[1] < steps[2]


@posix
@pytest.mark.parametrize(
    ("kills", "steps"), [(2, 20), pytest.param(20, 500, marks=pytest.mark.slow)]
)
def test_killed_runs_end_as_the_undisturbed_one(kills: int, steps: int, tmp_path: Path) -> None:
    # A copy of the compiled programs, as a killed process may leave partial files.
    compiled = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if Path(compiled).is_dir():
        compiled = shutil.copytree(compiled, tmp_path / "compiled")
    arguments = (f"--kills={kills}", f"--steps={steps}")
    done = subprocess.run(
        [sys.executable, "scripts/chaos.py", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"survived {kills} of {kills} kills" in done.stdout
    assert "exactly those of the undisturbed run" in done.stdout


@posix
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Also where Python cannot run a handler, because the process is inside one C call."""
    code = """
import signal, sys, threading
from absl import flags
from crnn_jax.commands import run
from crnn_jax.training.interrupt import StopRequest

def main(_):
    with StopRequest() as stop:
        print("ready", flush=True)
        while stop.received is None:
            threading.Event().wait(0.01)
        print("received", flush=True)
        sum(range(10**12))

run(main, flags.FlagValues(), "")
"""
    for second in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "received\n"
        process.send_signal(second)
        assert process.wait(PATIENCE) == -second  # which shells report as 143 and 130
        process.stdout.close()


def test_earlier_handlers_are_restored() -> None:
    caught: list[int] = []
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.received == signal.SIGTERM and not caught
            signal.raise_signal(signal.SIGTERM)
            assert caught == [signal.SIGTERM]
        stop.deliver()
        assert caught == [signal.SIGTERM] * 2
        with StopRequest():
            assert signal.getsignal(signal.SIGINT) is not earlier[signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is earlier[signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with StopRequest() as stop:  # under nohup
            signal.raise_signal(signal.SIGINT)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGINT, earlier[signal.SIGINT])
        signal.signal(signal.SIGTERM, earlier[signal.SIGTERM])


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_exit_code_is_that_of_shells(name: str, code: int) -> None:
    number = getattr(signal, name)
    earlier = signal.signal(number, signal.SIG_DFL)
    acts: list[str] = []
    try:
        with StopRequest() as stop:
            stop.then = lambda: acts.append(name)
            signal.raise_signal(number)
            assert stop.received == number and acts == [name]
        with pytest.raises(SystemExit) as caught:
            stop.deliver()
        assert caught.value.code == code
        signal.signal(number, signal.SIG_IGN)  # under nohup
        with StopRequest() as stop:
            signal.raise_signal(number)
            assert stop.received is None
    finally:
        signal.signal(number, earlier)


# The workdir


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from crnn_jax.training.workdir import exclusive
with exclusive(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    input()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin and holder.stdout
    with holder, pytest.raises(ConfigError) as caught:
        assert holder.stdout.readline() == "locked\n"
        try:
            with exclusive(tmp_path):
                raise AssertionError
        finally:
            holder.kill()
    place = f"process {holder.pid} on {socket.gethostname()}"
    assert str(caught.value) == (
        f"workdir {tmp_path} is in use by {place}; wait for it, stop it, or choose another"
        " --workdir"
    )
    with exclusive(tmp_path):  # the dead process left its files, but not its lock
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
        with pytest.raises(ConfigError, match="in use"), exclusive(tmp_path):
            raise AssertionError
    with exclusive(tmp_path):
        pass


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl")
    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        caplog.clear()
        with monkeypatch.context() as context:
            context.setattr(fcntl, "flock", refuse)
            with exclusive(tmp_path / str(number)):
                pass
        assert f"the file system of {tmp_path / str(number)} has no locks" in caplog.text
        # Not even then a file that would outlive a killed process.
        with exclusive(tmp_path / str(number)):
            pass


def test_the_lock_is_taken_before_data_are_read(tmp_path: Path) -> None:
    config = small_config(**{"data.dir": str(tmp_path / "nowhere")})
    with exclusive(tmp_path), pytest.raises(ConfigError, match="is in use by"):
        train.train_and_evaluate(config, tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        train.train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/a.png"),
        OSError(errno.ENOSPC, "No space left on device", "/data/batch"),
    ],
)
def test_only_an_error_of_writing_the_workdir_is_called_one(error: OSError, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, exclusive(tmp_path):
        raise error
    assert caught.value is error
    with pytest.raises(ConfigError, match=r"cannot be written \(.*again"), writing(tmp_path):
        raise error


@posix
@pytest.mark.parametrize(
    "name",
    [
        *("lock", "lock.json", "lock.json.tmp", "metrics.jsonl", "metrics.jsonl.tmp"),
        *("predictions.png", "tensorboard", "checkpoints", "trace", "trace/plugins"),
        *("report", "report/index.html"),
    ],
)
def test_nothing_in_a_workdir_is_followed_out_of_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if Path(name).suffix or name == "lock":
        elsewhere.write_text("precious")
    else:
        elsewhere.mkdir()
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    (tmp_path / "named").symlink_to(tmp_path / "run")  # the user may name a link
    for workdir in (tmp_path / "run", tmp_path / "named"):
        with (
            pytest.raises(ConfigError, match=rf"/{name} cannot be used: it is a link out of"),
            exclusive(workdir),
        ):
            raise AssertionError
    assert [path.name for path in (tmp_path / "run").iterdir()] == [Path(name).parts[0]]
    assert elsewhere.is_dir() or elsewhere.read_text() == "precious"
    monkeypatch.setenv("CRNN_JAX_TRUSTED", "1")
    if elsewhere.is_dir():  # as of somebody whose checkpoints are on another disk
        with exclusive(tmp_path / "run"), Checkpoints(tmp_path / "run"):
            pass


@posix
def test_a_link_within_a_workdir_and_a_workdir_that_is_a_link_are_used(tmp_path: Path) -> None:
    (tmp_path / "run" / "kept").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "run" / "kept")
    (tmp_path / "named").symlink_to(tmp_path / "run")
    with exclusive(tmp_path / "named"):
        pass


@posix
@pytest.mark.parametrize("name", ["metrics.jsonl", "lock.json", "tensorboard"])
def test_a_pipe_in_a_workdir_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"/{name} is neither a file nor"), exclusive(tmp_path):
        raise AssertionError


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    workdir = tmp_path / ("a" * 300)
    with pytest.raises(ConfigError, match=r"a{300} cannot be written \(.*--workdir"):
        train.train_and_evaluate(small_config(), workdir)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may write everywhere, so with root tests of permissions become another user."""
    if sys.platform == "win32" or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@posix
def test_a_read_only_workdir_is_one_line(request: pytest.FixtureRequest) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        request.getfixturevalue("nobody")
        for workdir in (folder, folder / "run"):
            with (
                pytest.raises(ConfigError, match=r"cannot be written \(Permission denied: .*again"),
                exclusive(workdir),
            ):
                raise AssertionError
        if os.geteuid() != os.getuid():
            os.seteuid(0)
        folder.chmod(0o755)
    (file := Path(tempfile.mkstemp()[1])).touch()
    with pytest.raises(ConfigError, match=r"cannot be written .*--workdir"), exclusive(file / "x"):
        raise AssertionError
    file.unlink()


# Training


FOUR = jax.local_devices()[:4]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    """A run on four devices: its workdir and its final state."""
    workdir = tmp_path_factory.mktemp("trained")
    return workdir, train.train_and_evaluate(small_config(epochs=2), workdir, FOUR)


def test_saved_on_four_devices_evaluated_on_one_and_eight(trained: tuple[Path, TrainState]) -> None:
    results = []
    for count in (1, 4, 8):
        result = evaluate(trained[0], devices=jax.local_devices()[:count])
        del result["seconds"]
        results.append(result)
    for result in results:
        numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
        rest = result.keys() - numbers.keys()
        assert numbers == pytest.approx({key: results[0][key] for key in numbers}, rel=1e-5)
        assert {key: result[key] for key in rest} == {key: results[0][key] for key in rest}
    assert "exact_match" in numbers and "confusions" in rest


def before_each_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Has `act` called with 0, 1, ... before the steps of the run that follows."""
    make = train.make_train_step

    def making(*arguments: Any) -> Any:
        step, count = make(*arguments), itertools.count()

        def wrapped(*arguments: Any) -> Any:
            act(next(count))
            return step(*arguments)

        return wrapped

    monkeypatch.setattr(train, "make_train_step", making)


def before_each_batch(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Has `act` called with 0, 1, ... before the batches of the run that follows are loaded."""
    load, count = train.TrainingBatches.__next__, itertools.count()

    def loading(batches: Any) -> Any:
        act(next(count))
        return load(batches)

    monkeypatch.setattr(train.TrainingBatches, "__next__", loading)


@posix
def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(
    trained: tuple[Path, TrainState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second epoch on, no file can become larger than 100 kB."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int) -> None:
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    with monkeypatch.context() as context:
        before_each_step(context, fill)
        try:
            # A metric, an image or the checkpoint, whichever reaches the limit first.
            with pytest.raises((CheckpointError, ConfigError), match="start the same command") as e:
                train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)
    # If the checkpoint did not reach the limit, all six steps are saved.
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.is_dir())
    assert saved in (3, 6)
    began: list[int] = []
    before_each_step(monkeypatch, began.append)
    state = train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)
    assert began == list(range(6 - saved))  # no saved step was taken again
    jax.tree.map(np.testing.assert_array_equal, state, trained[1])


@pytest.mark.parametrize(
    "error",
    [
        DataError("a.png cannot be read"),
        OSError(errno.EIO, "Input/output error"),
        ConfigError("workdir run cannot be written"),
    ],
)
def test_the_steps_before_an_error_are_saved(
    error: Exception,
    trained: tuple[Path, TrainState],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image of the fifth batch of six cannot be read, or something else goes wrong there."""

    def fail(step: int) -> None:
        if step == 4:
            raise error

    with monkeypatch.context() as context:
        before_each_batch(context, fail)
        with pytest.raises(type(error)) as caught:
            train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)
        assert caught.value is error
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {"4"}
    state = train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)
    jax.tree.map(np.testing.assert_array_equal, state, trained[1])


def test_a_signal_while_a_run_waits_for_images_saves_it(
    trained: tuple[Path, TrainState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process that loads batches is stopped: `next` ends without a batch."""

    def interrupt(step: int) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            raise StopIteration

    with monkeypatch.context() as context:
        before_each_batch(context, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)
    assert (tmp_path / "checkpoints" / "4").is_dir()
    state = train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)
    jax.tree.map(np.testing.assert_array_equal, state, trained[1])


def test_a_run_out_of_memory_is_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(step: int) -> None:
        if step == 1:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    before_each_step(monkeypatch, exhaust)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)


def test_a_clock_that_jumps_changes_nothing(
    trained: tuple[Path, TrainState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step the clock is set a week forward or back."""
    now, week, jumps = time.time, 7 * 24 * 3600, [0]

    def jump(step: int) -> None:
        jumps.append(week * (1, -1, 2, 0)[step % 4])

    before_each_step(monkeypatch, jump)
    monkeypatch.setattr(time, "time", lambda: now() + jumps[-1])
    state = train.train_and_evaluate(small_config(epochs=2), tmp_path, FOUR)
    jax.tree.map(np.testing.assert_array_equal, state, trained[1])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(jumps) == 7 and all(0 <= line["seconds"] < PATIENCE for line in lines)


def test_a_workdir_that_vanishes_is_one_line(
    trained: tuple[Path, TrainState], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    message = r"run cannot be written \(it has vanished: .*, and it does not exist; .* same command"
    with (
        pytest.raises(ConfigError, match=message),
        exclusive(workdir),
        Checkpoints(workdir) as checkpoints,
    ):
        shutil.rmtree(workdir)
        checkpoints.save(trained[1], {}, None)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "another config: seed was 0 and is now 1"),
        ({"batch_size": 4}, "another config: batch_size was 8 and is now 4"),
        ({"data.validation_fraction": 0.3}, "data.validation_fraction was 0.2 and is now 0.3"),
        ({"freeze": "conv_stack"}, "freeze was '' and is now 'conv_stack'"),
        ({"model.hidden": 8}, "another model: .*'hidden': 16.*'hidden': 8"),
        ({"data.channels": 1}, "another preprocessing: channels was 3 and is now 1"),
        ({"alphabet.ignore_case": True}, "another alphabet: .*ignore_case was False"),
    ],
)
def test_a_changed_config_is_refused_by_name(
    trained: tuple[Path, TrainState],
    changes: dict[str, object],
    message: str,
) -> None:
    before = sorted(path.name for path in (trained[0] / "checkpoints").rglob("*"))
    with pytest.raises(CheckpointError, match=rf"{message}.*; choose another --workdir, or"):
        train.train_and_evaluate(small_config(epochs=2, **changes), trained[0], FOUR)
    assert sorted(path.name for path in (trained[0] / "checkpoints").rglob("*")) == before


@posix
@pytest.mark.parametrize("module", ["main", "predict"])
def test_a_device_that_is_not_there_is_one_line(module: str) -> None:
    arguments = {
        "main": ["--config=configs/tiny.py"],
        "predict": [f"--model={ROOT / 'tests/data/checkpoints/format2'}", "README.md"],
    }
    done = subprocess.run(
        [sys.executable, "-m", f"crnn_jax.{module}", *arguments[module]],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "tpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"^error: JAX_PLATFORMS=tpu .*set JAX_PLATFORMS=cpu", done.stderr, re.M)
