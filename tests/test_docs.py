"""The pages name only commands, flags, settings, extras, files and headings that exist."""

import ast
import copy
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import flags

import crnn_jax
from crnn_jax.cli import COMMANDS
from crnn_jax.commands import override, parse_flags
from crnn_jax.errors import ConfigError
from crnn_jax.exporting.contents import PROGRAM

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
MODULES = {module for module, _, _ in COMMANDS.values()}
# Programs of others, whose arguments are not checked.
OTHERS = (".", "pip-audit", "pyright", "pytest", "ruff", "sphinx-build")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def blocks(text: str, language: str) -> Iterator[str]:
    """The code of the fenced blocks in a language."""
    for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield block[1]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in the bash blocks."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word != "&&":
                    words.append(word)
                elif words:
                    yield words
                    words = []


def problem(words: list[str]) -> str:
    """Says what is wrong with a command; empty if nothing is."""
    match words:
        case ["python3" | "python", "-m", "venv" | "pytest", *_]:
            return ""
        case ["python", "-m", module, *arguments] if module.startswith("crnn_jax."):
            return problem_of_module(module.removeprefix("crnn_jax."), arguments)
        case ["crnn-jax", command, *arguments] if command in COMMANDS:
            module, fixed, _ = COMMANDS[command]
            return problem_of_module(module, [*fixed, *arguments])
        case ["python", script, *arguments] if script.startswith("scripts/"):
            return problem_of_script(ROOT / script, arguments)
        case ["pip", "install", *arguments]:
            named = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
            unknown = {extra for names in named for extra in names.split(",")} - EXTRAS.keys()
            return f"no extra {', '.join(sorted(unknown))}" if unknown else ""
        case ["python", script, *_] if Path(script).name == PROGRAM:  # of an exported model
            return ""
        case [program, *_] if program in OTHERS:
            return ""
    return "an unknown program"


def flags_of(module: str) -> flags.FlagValues:
    """The flags of a command; a copy, as parsing changes them."""
    return copy.deepcopy(importlib.import_module(f"crnn_jax.{module}").FLAGS)


def problem_of_module(name: str, arguments: list[str]) -> str:
    """Parses a command line as the command does: its flags, the config, and its overrides."""
    if name not in MODULES:
        return f"no command crnn_jax.{name}"
    values = flags_of(name)
    try:
        rest = parse_flags(values, [name, *arguments])
        if "config" in values:
            override(crnn_jax.get_config(values["config"].value or "captcha"), rest)
    except ConfigError as error:
        return str(error)
    return ""


def problem_of_script(path: Path, arguments: list[str]) -> str:
    """Compares options and subcommands with those that a script gives to argparse."""
    if not path.is_file():
        return f"no file {path}"
    options: set[str] = set()
    values: set[str] = set()  # subcommands and choices
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = [one.value for one in node.args[:1] if isinstance(one, ast.Constant)]
            if node.func.attr == "add_parser":
                values.update(first)
            elif node.func.attr == "add_argument":
                options.update(first)
                for keyword in node.keywords:
                    if keyword.arg == "choices":
                        values.update(ast.literal_eval(keyword.value))
    for argument in arguments:
        if argument.startswith("-") and argument.partition("=")[0] not in options:
            return f"{path.name} has no option {argument}"
    if values and arguments[0] not in values:
        return f"{path.name} has no {arguments[0]}"
    return ""


def links(text: str) -> Iterator[str]:
    """The relative links of a page, code left out."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"\w+:", link):
            yield link


def anchors(text: str) -> set[str]:
    """The places of a page that a link can name, as GitHub and MyST call them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken: list[str] = []
    for link in links(page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        found = target.exists() and (
            not anchor or anchor in anchors(target.read_text(encoding="utf-8"))
        )
        broken += [] if found else [link]
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_the_flags_and_settings_that_they_are_given(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        assert not (found := problem(words)), f"{shlex.join(words)}: {found}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_in_the_text_exist(page: Path) -> None:
    known = {f"--{name}" for module in MODULES for name in flags_of(module)}
    for flag in re.findall(r"`(--[\w.]+)[^`\n]*`", page.read_text(encoding="utf-8")):
        key = flag.removeprefix("--config.")
        if key == flag:
            assert flag in known
        else:
            value = crnn_jax.get_config("captcha")
            for name in key.split("."):
                assert name in value, flag
                value = value[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_code_uses_the_public_names(page: Path) -> None:
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "crnn_jax":
                assert node.attr in crnn_jax.__all__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page)


def test_the_commands_of_the_results_can_be_run_again() -> None:
    rows = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))
    for name, row in rows.items():
        assert not (found := problem_of_module("main", row["arguments"])), f"{name}: {found}"


def test_what_is_promised_is_tested() -> None:
    names = re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    assert len(names) > 30
    assert not [name for name in names if f"def {name}(" not in tests]


def test_the_readme_fits_on_a_page() -> None:
    assert (ROOT / "README.md").stat().st_size <= 9_216


# --- the checks themselves ---


def test_commands_are_found() -> None:
    text = "```bash\na && b \\\n    --c  # comment\n\nd 'e f'\n```\n\n```text\ng\n```\n"
    assert list(commands(text)) == [["a"], ["b", "--c"], ["d", "e f"]]
    assert sum(len(list(commands(page.read_text(encoding="utf-8")))) for page in PAGES) > 30


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("crnn-jax predict --modle runs/captcha one.png", "modle"),
        ("crnn-jax paint", "unknown program"),
        ("python -m crnn_jax.paint", "no command crnn_jax.paint"),
        ("python -m crnn_jax.main --config configs/captcha.py --config.data.sauce=x", "sauce"),
        ("python -m crnn_jax.main --config configs/captcha.py --config.batch_size=few", "few"),
        ("python -m crnn_jax.main --config captcha:slow", "slow"),
        ("python -m crnn_jax.main --config configs/captcha.py --mode sing", "sing"),
        ("python scripts/results.py render --fast", "no option --fast"),
        ("python scripts/results.py paint", "no paint"),
        ("python scripts/paint.py", "no file"),
        ('pip install ".[paint]"', "no extra paint"),
        ("paint", "unknown program"),
    ],
)
def test_a_wrong_command_is_found(line: str, expected: str) -> None:
    assert expected in problem(shlex.split(line))


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A title, with `code`\n", encoding="utf-8")
    good = "[a](other.md) [b](other.md#a-title-with-code) [c](https://example.org) `[d](none.md)`"
    page.write_text(f"{good}\n[e](none.md) [f](other.md#none)\n", encoding="utf-8")
    assert broken_links(page) == ["none.md", "other.md#none"]
