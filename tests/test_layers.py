"""The plan of the house: who imports whom, who may do what, and how long a file gets.

The rules are CONTRIBUTING.md's layers. They are read off the sources, not off imported modules, so
that an import inside of a function counts as well.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "crnn_jax"

# From the ground up: a module imports from layers below its own, and from its own room.
LAYERS = (
    (
        *("__init__", "errors", "messages", "files", "compiler", "recipes"),
        *("architecture", "budget", "trees"),
    ),
    ("models", "text"),
    ("training", "data", "decoding", "onnx_graph"),
    ("recognition",),
    (
        *(
            "config",
            "dataset",
            "experiment",
            "train",
            "train_step",
            "evaluation",
            "run_data",
            "scoring",
        ),
        *("image_grids", "fine_tuning", "reports", "scoring", "exporting"),
    ),
    (
        *("cli", "commands", "huge_pages", "main", "predict", "check_data", "score"),
        *("export", "import_weights", "report", "demo", "language_model"),
    ),
)
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# Layers whose modules may import each other; elsewhere rooms of one layer are strangers.
ONE_ROOM = {LEVELS["train"], LEVELS["main"], LEVELS["errors"]}

# Package: the rooms or modules of crnn_jax that may import it; nobody else.
OWNERS = {
    "tensorflow": (),
    "orbax": ("training.checkpoint",),
    "tensorflow_datasets": ("data",),
    "grain": ("data",),
    "absl": LAYERS[-1],  # flags belong to commands
}
# Images, labels and recipes are read without jax.
WITHOUT_JAX = (
    *("text", "data", "recipes", "errors", "messages", "files", "architecture", "onnx_graph"),
    *("budget", "trees"),
)
JAX = ("jax", "flax", "optax", "orbax")

PURE = ("text", "models")
# Reads one small file, the characters, for `Alphabet.from_file`; limits a library's calls.
PURE_BUT_PATHS = {"text.alphabet": {"pathlib", "read_text"}, "text.shapes": {"sys"}}
IO_MODULES = {
    "builtins",
    "io",
    "os",
    "pathlib",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
}
IO_MODULES |= {"urllib", "requests", "PIL", "etils", "logging", "absl"}
IO_CALLS = {"open", "print", "input", "read_text", "read_bytes", "write_text", "write_bytes"}
IO_CALLS |= {"load", "loadtxt", "save", "savez", "savetxt", "tofile", "fromfile"}

MAX_LINES = 400
MAX_MAIN_LINES = 79


class Module:
    """A source file: its dotted name within its package, its syntax tree, and its imports."""

    def __init__(self, root: Path, file: Path) -> None:
        self.file = file.relative_to(root.parent)
        parts = file.relative_to(root).with_suffix("").parts
        self.name = ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1])
        self.package = [root.name, *parts[:-1]]
        text = file.read_text(encoding="utf-8")
        self.lines = len(text.splitlines())
        self.tree = ast.parse(text)

    @property
    def room(self) -> str:
        """The folder or top-level file that the module belongs to."""
        return self.name.split(".")[0]

    def belongs(self, owners: tuple[str, ...]) -> bool:
        """Whether the module is one of `owners`, or inside one."""
        return any(self.name == owner or self.name.startswith(owner + ".") for owner in owners)

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and full dotted name of all that is imported: modules, and names out of them."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                base = [node.module] if node.module else []
                if node.level:
                    base = [*self.package[: len(self.package) + 1 - node.level], *base]
                for alias in node.names:
                    yield node.lineno, ".".join([*base, alias.name])


def read(root: Path) -> dict[str, Module]:
    modules = [Module(root, file) for file in sorted(root.rglob("*.py"))]
    return {module.name: module for module in modules}


def internal(module: Module, modules: dict[str, Module]) -> Iterator[tuple[int, str]]:
    """Line and name of the imported modules of the package itself."""
    for line, name in module.imports():
        parts = name.split(".")
        if parts[0] != PACKAGE:
            continue
        # `from crnn_jax.errors import ConfigError`: the longest beginning that is a module.
        for end in range(len(parts), 1, -1):
            target = ".".join(parts[1:end])
            if target in modules:
                yield line, target
                break
        else:
            yield line, "__init__"


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle of imports, or none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for target in sorted(graph.get(name, ())):
                if found := visit(target, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := visit(name, []))), [])


def layer_violations(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if module.room not in LEVELS:
            yield f"{module.file}: has no layer; give it one in CONTRIBUTING.md and in LAYERS"
            continue
        if module.name == "__init__":
            continue  # names what it imports when asked; test_start_up sees that it is not sooner
        for line, target in internal(module, modules):
            room = target.split(".")[0]
            level, other = LEVELS[module.room], LEVELS.get(room, len(LAYERS))
            if room == module.room or (level == other and level in ONE_ROOM):
                continue
            if other >= level:
                direction = "up to" if other > level else "across to"
                yield f"{module.file}:{line}: imports {direction} {target}"
    graph = {
        name: {target for _, target in internal(module, modules)}
        for name, module in modules.items()
        if name != "__init__"
    }
    if cycle := find_cycle(graph):
        yield f"import cycle: {' -> '.join(cycle)}"


def owner_violations(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for line, name in module.imports():
            package = name.split(".")[0]
            if package in OWNERS and not module.belongs(OWNERS[package]):
                yield f"{module.file}:{line}: imports {package}"
            if package in JAX and module.belongs(WITHOUT_JAX):
                yield f"{module.file}:{line}: imports {package}"
            if name == "jax.pmap" and module.name != "training.parallel":
                yield f"{module.file}:{line}: pmap"
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node) == "jax.pmap"
                and module.name != "training.parallel"
            ):
                yield f"{module.file}:{node.lineno}: pmap"


def io_violations(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not module.belongs(PURE):
            continue
        allowed = PURE_BUT_PATHS.get(module.name, set())
        for line, name in module.imports():
            package = name.split(".")[0]
            if package in IO_MODULES - allowed:
                yield f"{module.file}:{line}: imports {package}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).split(".")[-1]
                if called in IO_CALLS - allowed:
                    yield f"{module.file}:{node.lineno}: calls {called}"


def length_violations(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        limit = MAX_MAIN_LINES if module.name == "main" else MAX_LINES
        if module.lines > limit:
            yield f"{module.file}: {module.lines} lines, more than {limit}"


def config_violations(configs: dict[str, Module]) -> Iterator[str]:
    for module in configs.values():
        for line, name in module.imports():
            if name not in ("ml_collections", PACKAGE):
                yield f"{module.file}:{line}: imports {name}"


@pytest.fixture(scope="module")
def house() -> dict[str, Module]:
    modules = read(ROOT / PACKAGE)
    # So that the tests below cannot pass for having found nothing.
    assert {"errors", "models", "models.crnn", "training.checkpoint", "main"} <= modules.keys()
    assert "training.parallel" in {name for _, name in internal(modules["train"], modules)}
    return modules


def test_imports_go_down(house: dict[str, Module]) -> None:
    assert not list(layer_violations(house))


def test_libraries_stay_in_their_rooms(house: dict[str, Module]) -> None:
    assert not list(owner_violations(house))


def test_text_and_models_do_no_io(house: dict[str, Module]) -> None:
    assert not list(io_violations(house))


def test_files_read_in_one_sitting(house: dict[str, Module]) -> None:
    assert not list(length_violations(house))


def test_configs_import_no_code() -> None:
    configs = read(ROOT / "configs")
    assert "captcha" in configs
    assert not list(config_violations(configs))


# --- the checker itself ---

SOUND = {
    "__init__.py": "if TYPE_CHECKING:\n    from crnn_jax.train import train_and_evaluate",
    "errors.py": "class ConfigError(Exception): ...",
    "models/__init__.py": "from crnn_jax.models.crnn import CRNN",
    "models/crnn.py": "import jax\nfrom crnn_jax.errors import ConfigError",
    "text/__init__.py": "",
    "text/alphabet.py": "from pathlib import Path\nPath('a').read_text()",
    "data/__init__.py": "",
    "data/sources.py": "import grain\nfrom ..text.alphabet import Path",
    "training/__init__.py": "",
    "training/checkpoint.py": "import orbax.checkpoint as ocp",
    "training/parallel.py": "import jax\njax.pmap",
    "recipes.py": "from ml_collections import ConfigDict\nfrom crnn_jax.errors import ConfigError",
    "train.py": "from crnn_jax import evaluation, models\nfrom crnn_jax.training import parallel\n"
    "parallel.pmap",
    "evaluation.py": "from crnn_jax.data import sources\nfrom crnn_jax.recipes import get_config",
    "main.py": "from absl import flags\ndef main():\n    from crnn_jax.train import evaluation",
}


def build(directory: Path, files: dict[str, str], name: str = PACKAGE) -> dict[str, Module]:
    for file, text in files.items():
        path = directory / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read(directory / name)


def violations(modules: dict[str, Module]) -> list[str]:
    checks = (layer_violations, owner_violations, io_violations, length_violations)
    return [violation for check in checks for violation in check(modules)]


def test_a_sound_house_passes(tmp_path: Path) -> None:
    assert not violations(build(tmp_path, SOUND))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("errors.py", "import crnn_jax.models", "errors.py:1: imports up to models"),
        ("models/crnn.py", "from crnn_jax import train", "imports up to train"),
        ("models/crnn.py", "import crnn_jax.text.alphabet as a", "imports across to text.alphabet"),
        ("text/alphabet.py", "from crnn_jax.models import crnn", "imports across to models.crnn"),
        ("data/sources.py", "def f():\n    from ..training import parallel", ":2: imports across"),
        ("training/checkpoint.py", "from ..data.sources import x", "across to data.sources"),
        ("train.py", "if TYPE_CHECKING:\n    from crnn_jax.main import main", "imports up to main"),
        ("train.py", "from . import main", "imports up to main"),
        (
            "evaluation.py",
            "from crnn_jax.train import x",
            "cycle: evaluation -> train -> evaluation",
        ),
        ("models/crnn.py", "import crnn_jax.models", "cycle: models -> models.crnn -> models"),
        ("shed.py", "", "shed.py: has no layer"),
        ("data/sources.py", "import tensorflow as tf", "imports tensorflow"),
        ("train.py", "from orbax import checkpoint", "imports orbax"),
        ("training/state.py", "import orbax.checkpoint", "imports orbax"),
        ("training/state.py", "import tensorflow_datasets", "imports tensorflow_datasets"),
        ("evaluation.py", "def f():\n    import grain.python", ":2: imports grain"),
        ("evaluation.py", "from absl import flags", "imports absl"),
        ("data/sources.py", "import jax.numpy as jnp", "imports jax"),
        ("train.py", "import jax\nstep = jax.pmap(max)", "train.py:2: pmap"),
        ("train.py", "from jax import pmap", "train.py:1: pmap"),
        ("text/metrics.py", "import os.path", "imports os"),
        ("text/metrics.py", "from pathlib import Path", "imports pathlib"),
        ("text/alphabet.py", "open('a')", "calls open"),
        ("models/crnn.py", "import numpy as np\nnp.load('a')", "crnn.py:2: calls load"),
        ("train.py", "\n" * 401, "401 lines, more than 400"),
        ("main.py", "\n" * 80, "80 lines, more than 79"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, text: str, expected: str) -> None:
    found = violations(build(tmp_path, {**SOUND, file: text}))
    assert any(expected in violation for violation in found), found


@pytest.mark.parametrize(
    "line", ["import numpy", "from crnn_jax.models import MODELS", "import os"]
)
def test_a_config_with_code_is_found(tmp_path: Path, line: str) -> None:
    sound = {"captcha.py": "import ml_collections", "tiny.py": "import crnn_jax"}
    assert not list(config_violations(build(tmp_path, sound, "configs")))
    broken = build(tmp_path, {"tiny.py": f"import ml_collections\n{line}"}, "configs")
    assert [v.split(": ")[0] for v in config_violations(broken)] == ["configs/tiny.py:2"]
