"""Runs the tests with the library versions that Google Colab has installed.

    python scripts/colab_environment.py DIR [arguments of pytest]

creates a virtual environment in DIR, or updates the one there, and runs pytest in it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Those of August 2026. `!pip freeze` in a notebook on Colab prints the current ones.
COLAB_PYTHON = (3, 13)
COLAB_VERSIONS = {
    "jax": "0.7.2",
    "jaxlib": "0.7.2",
    "flax": "0.11.2",
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12.4",
    "grain": "0.2.18",
}


def python_in(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    windows = sys.platform == "win32"
    return environment / ("Scripts/python.exe" if windows else "bin/python")


def install(environment: Path) -> None:
    """Creates the environment with Colab's versions, the project and its extra `test`.

    Raises:
      subprocess.CalledProcessError: pip finds no compatible versions, or cannot install them.
    """
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pins = [f"{name}=={version}" for name, version in COLAB_VERSIONS.items()]
    # In one call, so that pip satisfies the pins and the project together.
    pip = [str(python_in(environment)), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *pins, "--editable", f"{ROOT}[test]"], check=True)


def main() -> int:
    """Installs, runs the tests, and returns the exit code of pytest."""
    parser = argparse.ArgumentParser(description="Tests with the versions of Google Colab.")
    parser.add_argument("environment", metavar="DIR", type=Path, help="the virtual environment")
    arguments, pytest_arguments = parser.parse_known_args()
    if sys.version_info[:2] != COLAB_PYTHON:
        running, colab = (".".join(map(str, v)) for v in (sys.version_info[:2], COLAB_PYTHON))
        print(f"note: this is Python {running}, Colab has {colab}", file=sys.stderr)
    try:
        install(arguments.environment)
    except subprocess.CalledProcessError as error:
        return error.returncode  # pip has printed the reason
    python = python_in(arguments.environment).absolute()
    return subprocess.run([str(python), "-m", "pytest", *pytest_arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
