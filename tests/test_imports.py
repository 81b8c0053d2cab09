"""Import rules: the order of the folders, and where each library may be imported."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner import cli

ROOT = Path(__file__).parent.parent
COMMANDS = (*cli.COMMANDS, "__main__")

# Each folder may import from itself and from the folders after it. "leaves" are the other modules directly in tuner/,
# which every folder may import.
LAYERS = (
    *("commands", "cli", "api", "results", "followup", "runner", "reporting", "engines", "tracking", "storage"),
    *("visualization", "training", "search", "analysis", "config", "leaves"),
)
INDEPENDENT = {("engines", "tracking"), ("engines", "storage"), ("tracking", "storage")}  # never import each other

# Modules that may import a library; the libraries that are not listed may be imported anywhere.
ALLOWED_IN: dict[str, tuple[str, ...]] = {
    "mlflow": ("tuner/tracking/",),
    "optuna": ("tuner/storage/",),
    "sqlalchemy": ("tuner/storage/", "tuner/tracking/"),
    "requests": ("tuner/tracking/",),
    "plotly": ("tuner/visualization/plotly_backend.py",),
    "matplotlib": ("tuner/visualization/matplotlib_backend.py", "tuner/visualization/confusion.py"),
    "ray": ("tuner/engines/ray.py",),
    "jinja2": ("tuner/reporting/",),
    "yaml": ("tuner/config/",),
    "cloudpickle": ("tuner/config/by_value.py",),
    "pydantic": ("tuner/config/", "tuner/training/"),
    "scipy": ("tuner/analysis/", "tuner/search/", "tuner/storage/samplers/tpe.py"),
    "pandas": ("tuner/results.py",),
    "rich": (
        *("tuner/runner/", "tuner/followup/", "tuner/visualization/lr_preview.py"),
        *(f"tuner/{name}.py" for name in ("console", "export", "list", "preview", "range", "replay", "show")),
    ),
    "IPython": ("tuner/runner/",),
    "argcomplete": ("tuner/__main__.py",),
    "jsonargparse": ("lightning_modules/__main__.py",),
    "mlxtend": ("lightning_modules/data/",),
    "torchvision": ("lightning_modules/data/",),
}
STANDARD_LIBRARY_ONLY = (
    *("lightning_modules/_validation.py", "lightning_modules/schedules/"),
    *(
        "tuner/text.py",
        "tuner/direction.py",
        "tuner/analysis/pareto.py",
        "tuner/analysis/record.py",
        "tuner/analysis/findings.py",
        "tuner/analysis/lr_range.py",
    ),
    *(
        f"tuner/visualization/{name}.py"
        for name in (
            "__init__",
            "axes",
            "charts",
            "curves",
            "figure",
            "landscape",
            "lr_range",
            "parameters",
            "parts",
            "progress",
            "tradeoffs",
        )
    ),
)


def modules() -> list[str]:
    files = (path for package in ("lightning_modules", "tuner") for path in (ROOT / package).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in files)


def file_of(name: str) -> str | None:
    place = name.replace(".", "/")
    return next((file for file in (f"{place}.py", f"{place}/__init__.py") if (ROOT / file).exists()), None)


def imports(module: str) -> Iterator[str]:
    """Yield what a module imports, except for type checkers only."""
    todo = list(ast.parse((ROOT / module).read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo += list(ast.iter_child_nodes(node))


def layer_of(module: str) -> str:
    parts = Path(module).with_suffix("").parts
    if len(parts) == 2:
        return "commands" if parts[1] in COMMANDS else parts[1] if parts[1] in LAYERS else "leaves"
    return parts[1]


@pytest.mark.parametrize("module", modules())
def test_a_folder_imports_only_those_below_it(module: str):
    for name in imports(module):
        library, file = name.partition(".")[0], file_of(name)
        assert module.startswith(ALLOWED_IN.get(library, module)), f"{module} imports {name}"
        assert library != "tuner" or module.startswith("tuner/"), "lightning_modules may not import tuner"
        if library == "tuner" and file and module != "tuner/__init__.py":
            here, there = layer_of(module), layer_of(file)
            assert LAYERS.index(here) <= LAYERS.index(there), f"{module} imports {name}"
            assert {(here, there), (there, here)}.isdisjoint(INDEPENDENT), f"{module} imports {name}"
            assert here == there == "leaves" or there != "commands", "no module may import a command"


def test_no_modules_of_a_folder_import_each_other_in_a_circle():
    graph = {module: {file for name in imports(module) if (file := file_of(name))} for module in modules()}
    packages = {each for each in graph if each.endswith("__init__.py")}  # which collect the names of their modules
    graphlib.TopologicalSorter({each: files - packages for each, files in graph.items()}).prepare()


@pytest.mark.parametrize("module", [each for each in modules() if each.startswith(STANDARD_LIBRARY_ONLY)])
def test_schedules_and_figures_need_the_standard_library_only(module: str):
    for name in imports(module):
        library, file = name.partition(".")[0], file_of(name)
        if library in ("lightning_modules", "tuner"):
            assert file is None or file.startswith(STANDARD_LIBRARY_ONLY), f"{module} imports {name}"
        else:
            assert library in sys.stdlib_module_names, f"{module} imports {name}"


def test_only_one_place_builds_a_trainer():
    builders = [module for module in modules() if "pl.Trainer(" in (ROOT / module).read_text()]
    assert builders == ["tuner/followup/script.py", "tuner/training/build.py"], (
        "the first writes a script that builds one"
    )
