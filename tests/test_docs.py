"""The pages in docs/ are complete, their examples work, and the tests that docs/faults.md names exist."""

import math
import re
import runpy
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import lightning_modules
import tuner
from lightning_modules import Schedule
from tests.studies import TINY
from tuner.analysis.lr_curves import schedule_families
from tuner.config.loader import load_study
from tuner.config.registry import KINDS, arguments_of
from tuner.config.sampler_options import PRUNERS, SAMPLERS
from tuner.config.trainer import TrainerConfig

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "schedules.md").read_text()
CLI = (DOCS / "cli.md").read_text()
STUDY_FILE = (DOCS / "study-file.md").read_text()
script = runpy.run_path(str(DOCS / "make_schedules.py"))
cli_script = runpy.run_path(str(DOCS / "make_cli.py"))


def row_of(name: str) -> str:
    """Return the row of docs/study-file.md that lists the arguments of a name."""
    (row,) = re.findall(rf"^\|(?: `\w+` \|| \|)?[^|]*`{name}`[^|]*\|.*$", STUDY_FILE, re.MULTILINE)
    return row


def test_the_page_of_the_commands_is_up_to_date_with_their_parsers():
    assert cli_script["contents"](CLI) == CLI, "run python docs/make_cli.py"


def test_the_page_of_the_commands_has_all_of_them():
    modules = (DOCS.parent / "tuner").glob("*.py")
    commands = [path.stem for path in modules if "def parser() -> Parser:" in path.read_text()]
    assert sorted(cli_script["COMMANDS"]) == sorted(commands)


def test_the_study_file_that_the_page_shows_is_the_quickstart():
    assert f"```yaml\n{(DOCS.parent / 'studies' / 'quickstart.yaml').read_text()}```" in STUDY_FILE


@pytest.mark.parametrize("kind", ["averaging", "data", "model", "optimizer"])
def test_the_page_of_the_study_file_has_every_argument_with_its_default(kind: str):
    for name in KINDS[kind]:
        row = row_of(name)
        for argument, known in arguments_of(kind, name).arguments.items():
            default = re.findall(rf"`{argument}`(?: \(([^),]*))?", row)
            assert len(default) == 1, f"{name}: {argument}"
            if isinstance(known.default, float) or type(known.default) is int:
                assert float(default[0]) == known.default, f"{name}: {argument}"


def test_the_page_of_the_study_file_has_every_sampler_pruner_and_argument_of_the_trainer():
    for options in (SAMPLERS, PRUNERS):
        for name, arguments in options.items():
            assert all(f"`{argument}`" in row_of(name) for argument in arguments), name
    for argument in fields(TrainerConfig):
        assert f"| `{argument.name}` |" in STUDY_FILE


@pytest.mark.parametrize("package", [lightning_modules, tuner])
def test_the_reference_has_every_public_name(package: ModuleType):
    page = (DOCS / f"api-{package.__name__.replace('_', '-')}.md").read_text()
    for name in package.__all__:
        assert re.search(rf"^\.\. auto\w+:: {name}\b|`{name}`", page, re.MULTILINE), name


def test_the_page_of_the_schedules_is_up_to_date_with_the_docstrings():
    assert script["contents"](PAGE) == PAGE, "run python docs/make_schedules.py"


@pytest.mark.parametrize("name", sorted(KINDS["schedule"]))
def test_every_schedule_has_a_section_with_an_example_and_a_picture(name: str):
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^##|^<!--)", PAGE, re.MULTILINE | re.DOTALL)
    assert "*Synonyms:*" in section
    assert f"schedule: {{name: {name}" in section
    assert f"(schedules/{name}.png)" in section
    content = (DOCS / "schedules" / f"{name}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 20_000
    for text in script["EXAMPLES"][name]:
        assert all(0 <= factor < math.inf for factor in script["factors"](script["example"](text)))


def test_every_fault_names_existing_tests():
    rows = re.findall(r"^\|(?!---| failure \|)(.*)\|(.*)\|(.*)\|$", (DOCS / "faults.md").read_text(), re.MULTILINE)
    assert len(rows) >= 35
    for fault, _, tests in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
        assert len(named) == tests.count("`") / 2 > 0, fault
        for file, name in named:
            assert re.search(rf"^def {name}\(", Path(__file__).with_name(file).read_text(), re.MULTILINE), name


def test_there_is_no_picture_of_a_removed_schedule():
    assert sorted(path.stem for path in (DOCS / "schedules").iterdir()) == sorted(KINDS["schedule"])


def test_a_picture_shows_the_curves_of_its_examples():
    (axes,) = script["picture"]("step").axes
    halved, tenthed = (list(line.get_ydata()) for line in axes.lines)
    assert halved == [0.5 ** (step // 200) for step in range(1000)]
    assert tenthed == [0.1 ** (step // 500) for step in range(1000)]


def test_the_search_space_on_the_page_is_valid(tmp_path: Path):
    (text,) = re.findall(r"```yaml\n(search_space:.*?)```", PAGE, re.DOTALL)
    study = yaml.safe_load(TINY.read_text()) | yaml.safe_load(text)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(study))
    assert {family.name for family in schedule_families(load_study(str(tmp_path / "x.yaml")), 3)} == {
        "cosine",
        "step",
        "triangular",
    }


def test_the_curves_of_the_wrong_snippets_are_reproduced():
    first, second = (script["example"](text) for text in re.findall(r"^  schedule: (.*)$", PAGE, re.MULTILINE)[:2])
    assert isinstance(first, Schedule)
    assert isinstance(second, Schedule)
    for step in range(5000):
        epoch = step // 100
        assert first(step) == pytest.approx(0.5 ** (math.floor(1 + epoch) / 10), rel=1e-12)
        assert second(step) == 0.5 ** math.floor((1 + epoch) / 10)


def test_the_table_of_eps_is_calculated_right():
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for gradient, *shares in rows:
        assert shares == [f"{float(gradient) / (float(gradient) + eps):.3f}" for eps in (1e-8, 1e-3, 0.1, 1)]


def test_the_code_of_the_page_about_your_own_trainer_runs():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "library.md").read_text(), re.DOTALL)
    code = "\n".join(blocks)
    assert code.count("max_epochs=3") == 5
    names: dict[str, Any] = {}
    exec(code.replace("max_epochs=3", "fast_dev_run=True, logger=False"), names)
    assert names["module"].trainer.global_step == 1
