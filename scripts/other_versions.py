"""Runs the tests with other versions of the libraries.

    python scripts/other_versions.py colab DIR [arguments of pytest]
    python scripts/other_versions.py lowest DIR [arguments of pytest]

creates a virtual environment in DIR, or updates the one there, and runs pytest in it: with the
versions that Google Colab has installed, or with the lowest that pyproject.toml allows.
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
# Each kind of versions: what uv is asked for beside the project. pip cannot choose the lowest.
VERSIONS = {
    "colab": [f"{name}=={version}" for name, version in COLAB_VERSIONS.items()],
    "lowest": ["--resolution=lowest-direct"],
}


def install(environment: Path, arguments: list[str]) -> Path:
    """Creates an environment with the project and its extra `test`; returns its interpreter.

    Args:
      environment: the folder of the environment.
      arguments: further arguments of `uv pip install`.

    Raises:
      subprocess.CalledProcessError: there are no compatible versions, or they cannot be installed.
    """
    windows = sys.platform == "win32"
    python = environment.absolute() / ("Scripts/python.exe" if windows else "bin/python")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "uv"], check=True)
    # In one call, so that the versions and the project are satisfied together.
    uv = [str(python), "-m", "uv", "pip", "install", "--quiet", f"--python={python}"]
    subprocess.run([*uv, *arguments, f"--editable={ROOT}[test]"], check=True)
    return python


def main() -> int:
    """Installs, runs the tests, and returns the exit code of pytest."""
    parser = argparse.ArgumentParser(description="Tests with other versions of the libraries.")
    parser.add_argument("versions", choices=["colab", "lowest"], help="which versions")
    parser.add_argument("environment", metavar="DIR", type=Path, help="the virtual environment")
    arguments, pytest_arguments = parser.parse_known_args()
    if arguments.versions == "colab" and sys.version_info[:2] != COLAB_PYTHON:
        running, colab = (".".join(map(str, v)) for v in (sys.version_info[:2], COLAB_PYTHON))
        print(f"note: this is Python {running}, Colab has {colab}", file=sys.stderr)
    try:
        python = install(arguments.environment, VERSIONS[arguments.versions])
    except subprocess.CalledProcessError as error:
        return error.returncode  # uv has printed the reason
    return subprocess.run([str(python), "-m", "pytest", *pytest_arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
