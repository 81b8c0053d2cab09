"""Sphinx's configuration: ``make docs`` builds these pages and the API reference into docs/_build/html."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
release = version = PROJECT["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
default_role = "code"  # names in docstrings have single backticks
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

# References that lead nowhere are warnings, and `make docs` treats warnings as errors. References to other packages
# are left out: resolving them would need a network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|matplotlib|np|numpy|optuna|pandas|pathlib|pd|pytorch_lightning|torch|types|typing)\..*"),
    ("py:.*", r"Comparison|Figure|FrozenTrial|Path|lightning_modules\..*InSteps|tuner\..*"),  # names outside the API
]

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_theme_options = {"navbar_center": [], "show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_sidebars = {"**": ["globaltoc.html"]}
html_show_sourcelink = False


def setup(app: Any) -> None:
    """Connect the functions that Sphinx calls during a build."""
    app.connect("source-read", _offer_results)
    app.connect("autodoc-process-signature", _shorten)


def _offer_results(app: Any, name: str, source: list[str]) -> None:
    """Offer benchmark results for download: they are Markdown files, but not pages of this site."""
    source[0] = source[0].replace("](../benchmarks/", "](path:../benchmarks/")


def _shorten(
    app: Any, what: str, name: str, thing: object, options: object, signature: str | None, returns: str | None
) -> Any:
    """Write the name of the alias `Steps` in signatures, instead of its definition."""
    if signature is None:
        return None
    return re.sub(r"~?[\w.]*Annotated\[int \| float, ~?[\w.]*InSteps\(\)\]", "Steps", signature), returns
