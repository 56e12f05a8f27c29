"""Start-up: slow imports wait until they are needed; flags for XLA; the restart for huge pages."""

import functools
import importlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import jaxlib.version
import pytest

from crnn_jax import cli, compiler, huge_pages
from crnn_jax.compiler import FLAG, SETTING, enable_compilation_cache, set_cpu_flags

ROOT = Path(__file__).parents[1]
SLOW_TO_IMPORT = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets"}


def run(*command: str, **variables: str) -> str:
    """What a process prints that ends well, with these changes of the environment."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def imported_by(code: str, *arguments: str) -> str:
    """What is slow to import and was, after some lines of Python."""
    code += f"\nimport sys\nprint(*{SLOW_TO_IMPORT} & set(sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("module", ["", ".cli", ".recipes"])
def test_nothing_slow_is_imported(module: str) -> None:
    assert imported_by(f"import crnn_jax{module}; crnn_jax.ConfigError") == "\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_shown_at_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without what is slow to import; of all flags, and exit code 0."""
    assert imported_by("from crnn_jax.cli import main; main()", command, "--help") == "\n"
    cli.main(["crnn-jax", command, "--help"])
    shown = capsys.readouterr().out
    module = importlib.import_module(f"crnn_jax.{cli.COMMANDS[command][0]}")
    assert shown.startswith((module.__doc__ or "").partition("\n")[0])
    assert f"`crnn-jax {command}" in shown
    for name in module.FLAGS:
        assert re.search(rf"^  --(\[no\])?{name}: ", shown, re.MULTILINE), name
    if "config" in module.FLAGS:
        assert "captcha:fine_tune" in shown and "scene_text:benchmarks" in shown


# --- compilation cache ---

CACHE_FOLDER = "JAX_COMPILATION_CACHE_DIR"


@pytest.mark.parametrize("before", ["", "import jax; jax.jit(lambda x: x + 1)(1.0)"])
def test_compiled_programs_are_kept(before: str, tmp_path: Path) -> None:
    code = f"""if True:
        import os
        del os.environ[{CACHE_FOLDER!r}]
        {before}
        from crnn_jax.compiler import enable_compilation_cache
        enable_compilation_cache()
        enable_compilation_cache()
        import jax
        jax.jit(lambda x: x * 3)(1.0)
    """
    every_program = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    run(sys.executable, "-c", code, XDG_CACHE_HOME=str(tmp_path), **every_program)
    assert list(tmp_path.glob(f"crnn_jax/{platform.node()}/compiled/jit__lambda*"))


def test_a_damaged_program_is_compiled_again_once(tmp_path: Path) -> None:
    """As after a process that was killed while it wrote. Each process compiles or loads once."""
    code = """if True:
        import logging, sys
        from crnn_jax.compiler import repair_compilation_cache
        repair_compilation_cache()
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        import jax
        jax.monitoring.register_event_listener(lambda event, **_: print(event))
        assert jax.jit(lambda x: x * 3 + 1)(2.0) == 7
        print([path.name for path in sys.modules["pathlib"].Path(sys.argv[1]).glob("*-cache")])
    """

    def start() -> str:
        folder = {CACHE_FOLDER: str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return run(sys.executable, "-c", code, str(tmp_path), **folder)

    damaged = "Error reading persistent compilation cache entry for 'jit__lambda"
    assert damaged not in start()
    (entry,) = tmp_path.glob("jit__lambda*-cache")
    os.truncate(entry, entry.stat().st_size - 40)
    assert damaged in start()
    again = start()
    assert damaged not in again and "/jax/compilation_cache/cache_hits" in again


def test_a_configured_folder_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    enable_compilation_cache()  # the variable is set, for all tests
    folder = os.environ[CACHE_FOLDER]
    monkeypatch.delenv(CACHE_FOLDER)
    enable_compilation_cache()
    assert CACHE_FOLDER not in os.environ
    assert jax.config.jax_compilation_cache_dir == folder


# --- flags ---


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no answer in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        compiler, "_accepts_setting", functools.cache(compiler._accepts_setting.__wrapped__)
    )
    return tmp_path


def no_process(*_: object, **__: object) -> NoReturn:
    raise AssertionError("started a process")


@pytest.mark.parametrize(
    ("version", "given", "chosen"),
    [
        ("0.9.1", "--xla_x=1", "--xla_x=1"),  # does not know the flag
        ("0.10.0", "", ""),  # knows it, but has no convolutions in YNNPACK
        ("0.10.1", "", SETTING),
        ("0.10.2", "--xla_x=1", f"--xla_x=1 {SETTING}"),
        ("0.11.0", "", SETTING),
        ("0.12.0.1", "", SETTING),
        ("0.12.0.1", f"{FLAG}=mine", f"{FLAG}=mine"),
        ("0.12.0.1", "flags.txt", "flags.txt"),  # XLA reads a file of that name
    ],
)
def test_versions_that_were_checked_get_the_flag(
    version: str, given: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(jaxlib.version, "__version__", version)
    monkeypatch.setattr(subprocess, "run", no_process)
    set_cpu_flags()
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == chosen


@pytest.mark.parametrize(
    ("flag", "accepted"), [("--xla_cpu_enable_fast_math", True), ("--xla_no_such_flag", False)]
)
def test_a_newer_version_is_asked_once(
    flag: str, accepted: bool, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxlib.version, "__version__", "9.0.0")
    monkeypatch.setattr(compiler, "FLAG", flag)
    monkeypatch.setattr(compiler, "SETTING", f"{flag}=false")
    for _ in range(2):
        monkeypatch.setenv("XLA_FLAGS", "--xla_x=1")
        set_cpu_flags()
        assert os.environ["XLA_FLAGS"] == "--xla_x=1" + (f" {flag}=false" if accepted else "")
        # The second time, the answer comes from the cache folder.
        compiler._accepts_setting.cache_clear()
        monkeypatch.setattr(subprocess, "run", no_process)
    (file,) = cache_folder.glob("crnn_jax/*/xla_flags_9.0.0.txt")

    # What another version of this package has asked, or what cannot be read, is no answer.
    for other in (b"--xla_other=1 accepted", b"", b"\xff"):
        file.write_bytes(other)
        compiler._accepts_setting.cache_clear()
        monkeypatch.setenv("XLA_FLAGS", "")
        with pytest.raises(AssertionError, match="started a process"):
            set_cpu_flags()


@pytest.mark.parametrize(
    "obstacle", ["timeout", "no cache folder", "no interpreter", "other program"]
)
def test_an_answer_that_does_not_come_is_no_error(
    obstacle: str, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxlib.version, "__version__", "9.0.0")
    monkeypatch.setenv("XLA_FLAGS", "")
    calls: list[object] = []

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        calls.append(command)
        if obstacle == "timeout":
            raise subprocess.TimeoutExpired(command, compiler.TIMEOUT)
        return subprocess.CompletedProcess(command, 0)

    if obstacle != "no interpreter":
        monkeypatch.setattr(subprocess, "run", answer)
    if obstacle == "no cache folder":
        (cache_folder / "crnn_jax").touch()
    if obstacle == "no interpreter":
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    if obstacle == "other program":
        monkeypatch.setattr(sys, "executable", "/usr/bin/blender")
    set_cpu_flags()
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == (SETTING if obstacle == "no cache folder" else "")
    assert len(calls) == (obstacle in ("timeout", "no cache folder"))
    assert not list(cache_folder.rglob("*.txt"))


def test_convolutions_are_xlas_and_products_ynnpacks() -> None:
    code = """if True:
        from crnn_jax.compiler import set_cpu_flags
        set_cpu_flags()
        import jax, jax.numpy as jnp
        def f(x, kernel, weights):
            layout = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
            return (y.reshape(-1, 128) @ weights).sum()
        shapes = (32, 16, 50, 64), (3, 3, 64, 128), (128, 512)
        gradient = jax.jit(jax.grad(f, (0, 1)))
        print(gradient.lower(*map(jnp.zeros, shapes)).compile().as_text())
    """
    fusions, _, program = run(sys.executable, "-c", code, XLA_FLAGS="").partition("ENTRY")
    assert "__ynn_fusion" in program and " dot(" in fusions
    assert " convolution(" in program and " convolution(" not in fusions


# --- huge pages ---

# A command that logs its starts. It is run as a module of the package; it does not import JAX.
COMMAND = """
import os, sys
from pathlib import Path
from crnn_jax import huge_pages

folder = Path(os.environ["FOLDER"])
huge_pages.SYSTEM_SETTING = folder / "enabled"

def main():
    with (folder / "log").open("a") as log:
        print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:], sep="|", file=log)
    exec(os.environ.get("BEFORE", ""))
    huge_pages.restart_with_huge_pages()

if __name__ == "__main__":
    main()
"""
RUN = "import runpy; runpy.run_module('crnn_jax.fake', run_name='__main__', alter_sys=True)"
FORK = f"""
import os
for job in range(3):
    if not os.fork():
        {RUN}
        os._exit(0)
for job in range(3):
    assert os.wait()[1] == 0
"""
SPAWN = """
import multiprocessing
from runpy import run_module
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    for job in range(2):
        job = multiprocessing.Process(target=run_module, args=("crnn_jax.fake", {}, "__main__"))
        job.start()
        job.join()
        assert job.exitcode == 0
"""
WRAPPER = f"""#!/bin/sh
unset GLIBC_TUNABLES
exec {sys.executable} "$@"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with programs that call the command, on a system that gives pages on request."""
    package = tmp_path / "crnn_jax"
    package.mkdir()
    (package / "__init__.py").write_text(f"__path__.append({str(ROOT / 'crnn_jax')!r})")
    (package / "fake.py").write_text(COMMAND)
    (tmp_path / "crnn-jax").write_text("from crnn_jax.fake import main\nmain()")
    (tmp_path / "launch.py").write_text(RUN)
    (tmp_path / "fork.py").write_text(FORK)
    (tmp_path / "spawn.py").write_text(SPAWN)
    (tmp_path / "wrapper").write_text(WRAPPER)
    (tmp_path / "wrapper").chmod(0o755)
    (tmp_path / "enabled").write_text("always [madvise] never")
    return tmp_path


def starts(folder: Path, command: str, before: str = "") -> list[list[str]]:
    """Process, request and arguments of each start, after a command line of the shell.

    `before` is what the command does before it asks for a restart.
    """
    inherited = (huge_pages.SWITCH, huge_pages.TUNABLES)
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    environment |= {"PYTHONPATH": str(folder), "FOLDER": str(folder), "BEFORE": before}
    environment["IPYTHONDIR"] = str(folder)  # not the home folder
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, check=True, capture_output=True
    )
    return [line.split("|") for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    "command",
    [
        "python -m crnn_jax.fake",
        "python -W ignore -bu -X utf8 -Wignore -m crnn_jax.fake",
        "python crnn-jax",
        "CRNN_JAX_HUGE_PAGES=1 python -m crnn_jax.fake",
    ],
)
def test_a_command_restarts_once_to_ask_for_huge_pages(command: str, folder: Path) -> None:
    first, second = starts(folder, f"{command} 'a b' --c")
    assert first == [first[0], "None", "a b", "--c"]
    assert second == [first[0], huge_pages.REQUEST, "a b", "--c"]


@pytest.mark.parametrize(
    "command",
    [
        "CRNN_JAX_HUGE_PAGES=0 python -m crnn_jax.fake",
        "GLIBC_TUNABLES=glibc.malloc.check=1 python -m crnn_jax.fake",
        f'python -c "{RUN}"',
        f'python -c "{RUN}" -m crnn_jax.fake',
        f'echo "{RUN}" | python - -m crnn_jax.fake',
        f'echo "{RUN}" | python',
        "python launch.py -m crnn_jax.fake",
        "python -m launch",
        "python -m IPython --no-banner -c '%run -m crnn_jax.fake'",  # as in a notebook
        "python -m pdb -c continue -c quit -m crnn_jax.fake",
        "python -m cProfile -m crnn_jax.fake",
        "python -m crnn_jax.fake <&-",
        "python -m crnn_jax.fake >&-",
        "python -m crnn_jax.fake 2>&-",
    ],
)
def test_what_is_not_a_plain_command_does_not_restart(command: str, folder: Path) -> None:
    assert len(starts(folder, command)) == 1


@pytest.mark.parametrize(
    "before",
    [
        "(folder / 'enabled').write_text('[always] madvise never')",
        "(folder / 'enabled').write_text('always madvise [never]')",
        "(folder / 'enabled').unlink()",  # no Linux
        "sys.settrace(lambda *_: None)",
        "sys.setprofile(lambda *_: None)",
        pytest.param(
            "sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, 'debugger')",
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="since Python 3.12"),
        ),
        "sys.executable = ''",
        "sys.executable = None",
        "sys.executable = '/nowhere/python'",
        "sys.stdout.close()",
    ],
)
def test_nothing_that_is_at_work_is_disturbed(before: str, folder: Path) -> None:
    assert len(starts(folder, "python -m crnn_jax.fake", before)) == 1


@pytest.mark.parametrize(("program", "jobs"), [("fork.py", 3), ("spawn.py", 2)])
def test_each_job_of_a_launcher_runs_once(program: str, jobs: int, folder: Path) -> None:
    assert len(starts(folder, f"python {program}")) == jobs


def test_a_forked_child_does_not_restart(folder: Path) -> None:
    before = "if 'GLIBC_TUNABLES' not in os.environ: os.fork()"
    first, second = starts(folder, "python -m crnn_jax.fake", before)
    assert first[0] == second[0]


def test_a_wrapper_that_drops_the_request_is_not_restarted_for_ever(folder: Path) -> None:
    before = "sys.executable = str(folder / 'wrapper')"
    log = starts(folder, "python -m crnn_jax.fake", before)
    assert [request for _, request in log] == ["None", "None"]
