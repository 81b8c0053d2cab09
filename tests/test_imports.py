"""Who may import whom: the architecture, as a table."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Nobody imports them.
COMMANDS = ("confirm", "export", "league", "preview", "replay", "study")

# Which folders and modules may import a library.
WALLS: dict[str, tuple[str, ...]] = {
    "mlflow": ("tuner/tracking/",),
    "optuna": (
        "tuner/storage/",
        "tuner/runner/coordinator.py",
        "tuner/runner/display.py",
        "tuner/followup/replicates.py",
    ),
    "sqlalchemy": ("tuner/storage/", "tuner/tracking/"),
    "requests": ("tuner/tracking/",),
    "plotly": ("tuner/visualization/",),
    "matplotlib": ("tuner/visualization/", "tuner/api.py"),
    "ray": ("tuner/engines/ray.py",),
    "jinja2": ("tuner/report.py",),
    "yaml": ("tuner/config/",),
    "pydantic": ("tuner/config/", "tuner/training/"),
    "rich": (
        *(f"tuner/{name}.py" for name in ("confirm", "export", "league", "preview", "replay")),
        "tuner/runner/",
        "tuner/visualization/lr_preview.py",
    ),
    "scipy": ("tuner/analysis/",),
    "pandas": ("tuner/api.py",),
    "IPython": ("tuner/runner/",),
    "jsonargparse": ("lightning_modules/__main__.py",),
    "mlxtend": ("lightning_modules/data/",),
    "torchvision": ("lightning_modules/data/",),
}
STANDARD_LIBRARY_ONLY = {
    "lightning_modules/_validation.py",
    *(
        f"lightning_modules/schedules/{name}.py"
        for name in ("__init__", "base", "composite", "cyclic", "decay", "formula", "plateau")
    ),
} | {
    f"tuner/{name}.py"
    for name in (
        "analysis/__init__",
        "analysis/record",
        *(f"visualization/{name}" for name in ("__init__", "charts", "curves", "figure", "parameters", "parts")),
        "text",
    )
}


def modules() -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for package in ("lightning_modules", "tuner")
        for path in (ROOT / package).rglob("*.py")
    )


def imports(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", modules())
def test_each_module_imports_only_what_its_place_allows(module: str):
    for name in imports(module):
        package = name.partition(".")[0]
        assert module.startswith(WALLS.get(package, module)), f"{module} imports {name}"
        assert name not in {f"tuner.{command}" for command in COMMANDS}, "nobody imports the commands"
        if module.startswith("lightning_modules"):
            assert package != "tuner", f"{module} imports {name}: the arrow goes from tuner to lightning_modules only"
        if module.startswith("tuner/engines"):
            assert package not in {"optuna", "mlflow"}


@pytest.mark.parametrize("module", sorted(STANDARD_LIBRARY_ONLY))
def test_schedules_plateau_and_what_plots_show_need_the_standard_library_only(module: str):
    for name in imports(module):
        package = name.partition(".")[0]
        if package in ("lightning_modules", "tuner"):
            place = "/".join(name.split("."))
            file = next((each for each in (f"{place}.py", f"{place}/__init__.py") if (ROOT / each).exists()), None)
            assert file is None or file in STANDARD_LIBRARY_ONLY, f"{module} imports {name}"
        else:
            assert package in sys.stdlib_module_names, f"{module} imports {name}"


def test_only_one_place_builds_a_trainer():
    builders = [module for module in modules() if "pl.Trainer(" in (ROOT / module).read_text()]
    assert builders == ["tuner/followup/script.py", "tuner/training/build.py"], "the first writes a script with one"
