"""Who may import whom: the architecture, as a table."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Nobody imports them.
COMMANDS = ("confirm", "export", "league", "preview", "replay", "study")

# What a module may import beside the standard library and its own package's siblings.
ONLY_HERE = {
    "mlflow": {
        f"tuner/{name}.py"
        for name in (
            *("tracking", "study_run", "trial_runs", "recorder", "tracked", "system_metrics"),
            *("tracking_store", "store_uri", "store_errors", "artifacts"),
        )
    },
    "optuna": {
        f"tuner/{name}.py"
        for name in ("coordinator", "database", "past", "progress", "reading", "samplers", "seeds", "storage")
    },
    "sqlalchemy": {
        f"tuner/{name}.py" for name in ("database", "tracking_store", "store_uri", "store_errors", "artifacts")
    },
    "requests": {"tuner/store_errors.py"},
    "plotly": {"tuner/interactive.py"},
    "ray": {"tuner/engines/ray.py"},
    "jinja2": {"tuner/report.py"},
    "yaml": {"tuner/study_file.py"},
    "pydantic": {"tuner/config.py", "tuner/hints.py", "tuner/training.py"},
    "rich": {
        f"tuner/{name}.py"
        for name in (
            "confirm",
            "export",
            "league",
            "plots",
            "preview",
            "progress",
            "replay",
            "running",
            "summary",
        )
    },
    "scipy": {"tuner/comparison.py"},
    "pandas": {"tuner/api.py"},
    "IPython": {"tuner/progress.py"},
    "jsonargparse": {"lightning_modules/__main__.py"},
    "matplotlib": {"tuner/api.py", "tuner/pictures.py", "tuner/plots.py"},
    "mlxtend": {"lightning_modules/data/mnist.py", "lightning_modules/data/tables.py"},
    "torchvision": {"lightning_modules/data/mnist.py"},
}
STANDARD_LIBRARY_ONLY = {
    "lightning_modules/_validation.py",
    *(
        f"lightning_modules/schedules/{name}.py"
        for name in ("__init__", "base", "composite", "cyclic", "decay", "formula", "plateau")
    ),
} | {
    f"tuner/{name}.py"
    for name in ("chart_parts", "charts", "curve_charts", "figures", "parameter_charts", "record", "wording")
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
        assert module in ONLY_HERE.get(package, {module}), f"{module} imports {name}"
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
    assert builders == ["tuner/building.py", "tuner/script.py"], "the second writes a script that builds one"
