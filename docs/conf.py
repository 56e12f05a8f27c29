"""Settings of the documentation site; `sphinx-build docs docs/_build/html` builds it."""

import inspect
import re
from typing import Any

from flax import linen as nn
from sphinx.util.inspect import stringify_signature

import crnn_jax

project = "crnn_jax"
author = "the crnn_jax authors"
project_copyright = author
version = release = crnn_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
default_role = "py:obj"  # a name in backticks links to its reference, if there is one

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
autosummary_generate = False
napoleon_numpy_docstring = False

html_theme = "sphinx_book_theme"
html_title = "crnn_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_theme_options = {
    "logo": {"image_light": html_favicon, "image_dark": html_favicon, "text": html_title},
    "navbar_persistent": [],  # the sidebar has the search field
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_show_copyright = False
html_show_sourcelink = False


def readable_signature(
    _app: Any, _what: str, _name: str, item: Any, _options: Any, signature: str, returns: str
) -> tuple[str, str]:
    """Leaves out default factories, and the fields `parent` and `name` of every Flax module.

    Sphinx writes a signature that it cannot parse, such as one with `<factory>`, on a single line.
    """
    if inspect.isclass(item) and issubclass(item, nn.Module):
        parameters = inspect.signature(item).parameters.values()
        own = [one for one in parameters if one.name not in ("parent", "name")]
        signature = stringify_signature(inspect.Signature(own), unqualified_typehints=True)
    return signature and signature.replace("<factory>", "..."), returns


def separate_plurals(
    _app: Any, _what: str, _name: str, _item: Any, _options: Any, lines: list[str]
) -> None:
    """Lets docstrings write `Split`s: reStructuredText needs a separator after the backtick."""
    text = re.sub(
        r"(`+[^`]+`+)(\w?)", lambda m: rf"{m[1]}\ {m[2]}" if m[2] else m[0], "\n".join(lines)
    )
    lines[:] = text.split("\n")


def setup(app: Any) -> None:
    """Registers the handlers."""
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("autodoc-process-docstring", separate_plurals)
