"""Models as a web page that reads in the browser; any server of static files can host it."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from crnn_jax.errors import ConfigError
from crnn_jax.exporting import Reader
from crnn_jax.exporting.contents import README, write_description
from crnn_jax.exporting.npm import NpmPackage, read_package
from crnn_jax.exporting.onnx_format import MODEL, OnnxFormat
from crnn_jax.recognition.trained_model import TrainedModel

RUNTIME = NpmPackage(
    name="onnxruntime-web",
    version="1.30.0",
    integrity="sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    size=33_106_585,
)
"""Its files are those for the CPU, in WebAssembly; they are the smallest of the package."""

RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
NOTICES = "ThirdPartyNotices.txt"  # of the libraries in onnxruntime

TEXT = """\
# {name} as a web page

The page reads images of one line of text in the browser, with step {step} of {name}, exported by
crnn_jax. Images never leave the browser. Any server of static files can host the folder. To try it:

```
python -m http.server
```

Then open http://localhost:8000. A page that is opened as a file may not load its model, by the
rules of browsers.

| file | what it is |
|---|---|
| `index.html`, `page.mjs`, `style.css` | the page |
| `reader.mjs` | reads an image; import it in pages of your own |
| `model.onnx`, `model.json` | the network in ONNX, and its characters |
| `onnxruntime/` | onnxruntime-web {runtime} (MIT license), from {url} |

Images of more than 4 megapixels are made smaller before they are read, because the memory of a
browser is limited. Transparency becomes white.
"""


class WebFormat:
    """A folder of static files; see `exporting.Format`.

    The proof reads `model.onnx` of the folder with onnxruntime in Python. That the page itself
    reads the same in a browser, from the file to the text, is tested in Chromium, in
    `tests/test_web_export.py`.
    """

    name = "web"
    tolerance: float | None = 1e-4

    def write(self, model: TrainedModel, folder: Path, images: Sequence[np.ndarray]) -> None:
        """See `exporting.Format`.

        Raises:
          ConfigError: onnxruntime-web cannot be downloaded, or the license is missing.
        """
        del images
        from crnn_jax.recognition.onnx_model import onnx_model

        runtime = read_package(RUNTIME, [f"dist/{name}" for name in RUNTIME_FILES])
        graph = onnx_model(model, resize=True)
        (folder / MODEL).write_bytes(graph.SerializeToString())
        write_description(model, folder)
        name = Path(model.name).name
        text = TEXT.format(name=name, step=model.step, runtime=RUNTIME.version, url=RUNTIME.url)
        (folder / README).write_text(text, encoding="utf-8")
        for file in files("crnn_jax.exporting").joinpath("page").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        place = folder / "onnxruntime"
        place.mkdir()
        for file, content in zip(RUNTIME_FILES, runtime, strict=True):
            (place / file).write_bytes(content)
        for file in ("LICENSE", NOTICES):  # the archive of npm has neither
            (place / file).write_bytes(_license(file))

    def load(self, folder: Path) -> Reader:
        """See `exporting.Format`."""
        return OnnxFormat().load(folder)


def _license(name: str) -> bytes:
    """A file of the installed onnxruntime about its license, which onnxruntime-web shares."""
    file = files("onnxruntime").joinpath(name)
    if not file.is_file():
        raise ConfigError(
            f"the installed onnxruntime has no file {name}, which the page has to come with;"
            " install onnxruntime from PyPI"
        )
    return file.read_bytes()
