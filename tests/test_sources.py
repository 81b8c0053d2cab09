"""The source files of a study's own modules, and reports of their changes."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.studies import INLINE, StudyFolder, as_a_process
from tests.test_own import NET, NEXT_TO_MODULE
from tuner import Study
from tuner.config.digest import content_digest
from tuner.config.sources import Sources, changes_since, own_sources, sources_of, versions_of, with_sources
from tuner.confirm import main as confirm
from tuner.export import main as export
from tuner.replay import main as replay
from tuner.report import main as report
from tuner.show import main as show

PACKAGE = {
    "own_top.py": "import os, torch\nimport own_side\nfrom own_package.inner import nets\n",
    "own_side.py": "def late():\n    import own_late\n",
    "own_late.py": "this is no Python, and is never imported",
    "own_package/__init__.py": "from . import first",
    "own_package/first.py": "def late():\n    from .inner.nets import WIDTH, missing",
    "own_package/inner/__init__.py": "",
    "own_package/inner/nets.py": (
        "from lightning_modules import MLP\ndef late():\n    from ..second import x\n    from ... import x"
    ),
    "own_package/second.py": "import own_package.first",
    "own_package/unused.py": "",
    "own_unused.py": "",
}

SEARCHED = "search_space.optimizer.initial_lr={low: 1e-3, high: 1e-1}"

CELL = """
import functools, re, sys, types
import torch
from torch import nn

WIDTH, NAMES, UNUSED = 3, {"b", "a", 1}, 0
SETTINGS = types.SimpleNamespace(rates=[0.1], pattern=re.compile("x"), table=torch.ones(2, dtype=torch.bfloat16))

@functools.cache
def width():
    return WIDTH

def scaled(x, by=2.0):
    return x * by * SETTINGS.rates[0]

class Base(nn.Module):
    KINDS = {nn.ReLU}

    def forward(self, x):
        return scaled(self.layer(x))

class Net(Base):
    def __init__(self, bias: bool = True):
        super().__init__()
        self.layer = nn.Linear(width(), width(), bias=bias)

    @property
    def names(self):
        return [name for name in NAMES if SETTINGS.pattern.match(name)], SETTINGS.table, type(self), self.WIDTH
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with modules, from which they can be imported."""
    for name, content in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_own_sources_are_the_named_modules_and_their_imports_from_the_same_folder(own: Path):
    files = own_sources(["own_top", "torch.optim", "lightning_modules", "nowhere"])
    assert set(files) == set(PACKAGE) - {"own_package/unused.py", "own_unused.py"}
    assert not {name for name in sys.modules if name.startswith("own_")}, "nothing was run for it"
    assert set(own_sources(["own_package.second"])) == {name for name in files if name.startswith("own_package")}


def test_a_digest_changes_with_the_content_only(own: Path):
    before = own_sources(["own_top"])
    (own / "own_package" / "second.py").touch()
    (own / "own_unused.py").write_text("1")
    assert own_sources(["own_top"]) == before
    (own / "own_package" / "second.py").write_text("1")
    (own / "own_late.py").unlink()
    after = own_sources(["own_top"])
    assert {name for name in before if before[name] != after.get(name)} == {"own_package/second.py", "own_late.py"}


def of_cell(cell: str = CELL, name: str = "<cell>") -> dict[str, Any]:
    """Return what a cell of a notebook defines."""
    made: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cell, name, "exec"), made)
    return made


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("WIDTH, NAMES, UNUSED = 3", "WIDTH, NAMES, UNUSED = 4"),
        ('{"b", "a", 1}', '{"b", "a", 2}'),
        ("rates=[0.1]", "rates=[0.2]"),
        ('compile("x")', 'compile("y")'),
        ("torch.ones", "torch.zeros"),
        ("return WIDTH", "return WIDTH + 1"),
        ("by=2.0", "by=3.0"),
        ("KINDS = {nn.ReLU}", "KINDS = {nn.Tanh}"),
        ("bias: bool = True", "bias: bool = False"),
        ("scaled(self.layer(x))", "scaled(self.layer(x), 1.0)"),
        ("class Net(Base)", "class Net(nn.Module)"),
        ("@property", "@functools.cached_property"),
    ],
)
def test_the_digest_of_a_class_of_a_notebook_changes_with_whatever_it_uses(before: str, after: str):
    assert before in CELL
    assert content_digest(of_cell()["Net"]) != content_digest(of_cell(CELL.replace(before, after, 1))["Net"])


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ("nn.Linear(2, 2)", "VALUE.weight.requires_grad_(False)"),
        ("nn.Linear(2, 2)", "VALUE.weight.decayed = True"),
        ("torch.ones(2)", "VALUE.requires_grad_()"),
        ("torch.ones(2)", "VALUE.scale = 2"),
        ("torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))", "VALUE.weight.data += 1"),
        ("torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))", "VALUE.weight.requires_grad_(False)"),
        ("types.MappingProxyType(TABLE)", "TABLE['rate'] = 2"),
        ("memoryview(BYTES)", "BYTES[0] = 2"),
        ("type('Size', (int,), {})(3)", "VALUE.unit = 'kg'"),
        ("type('Name', (str,), {})('a')", "VALUE.unit = 'kg'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_digest_changes_with_an_object_that_changes_in_place(value: str, change: str):
    cell = "import torch, types\nfrom torch import nn\nTABLE, BYTES = {'rate': 1}, bytearray(b'a')\n"
    made = of_cell(f"{cell}VALUE = {value}\ndef f(): return VALUE\n")
    before = content_digest(made["f"])
    assert content_digest(made["f"]) == before
    exec(change, made)
    assert content_digest(made["f"]) != before


def test_a_digest_does_not_change_with_comments_places_and_what_is_not_used():
    edited = "# a comment\n" + CELL.replace("UNUSED = 3, ", "UNUSED = 3,  ").replace("1}, 0", "1}, 5")
    assert content_digest(of_cell()["Net"]) == content_digest(of_cell(edited, "/tmp/other.py")["Net"])


def test_a_digest_is_the_same_in_every_process(tmp_path: Path):
    ending = """
from tuner.config.digest import content_digest
torch.manual_seed(0)
print(content_digest(Net), content_digest(Net()))
"""
    (tmp_path / "script.py").write_text(CELL + ending)
    made = of_cell()
    torch.manual_seed(0)
    here = f"{content_digest(made['Net'])} {content_digest(made['Net']())}"
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": paths}  # sets have another order
    command = [sys.executable, tmp_path / "script.py"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip() == here


def test_a_digest_of_what_is_imported_from_a_module_of_the_user_changes_with_its_files(own: Path):
    (own / "own_side.py").write_text("SIDE = 1\ndef side(): return SIDE\n")
    made = of_cell("import own_side\nfrom own_side import side\ndef f(): side()\ndef g(): own_side.side()\n")
    before = content_digest(made["f"]), content_digest(made["g"])
    (own / "own_side.py").write_text("SIDE = 2\ndef side(): return SIDE\n")
    assert all(
        now != then for now, then in zip((content_digest(made["f"]), content_digest(made["g"])), before, strict=True)
    )


def test_a_digest_of_what_cannot_be_pickled_or_contains_itself_is_its_type():
    made = of_cell("import threading\nLOCK, ALL = threading.Lock(), set()\ndef f(): return LOCK, ALL, f\nALL.add(f)")
    again = of_cell("import threading\nLOCK, ALL = threading.Lock(), set()\ndef f(): return LOCK, ALL, f\nALL.add(f)")
    assert content_digest(made["f"]) == content_digest(again["f"])
    again["LOCK"] = object()
    assert content_digest(made["f"]) != content_digest(again["f"])


def test_a_study_reports_a_changed_global_of_a_function_that_it_sends_by_value(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder.prepare()
    monkeypatch.chdir(folder.path)

    def output(scale: float, trials: int) -> str:
        cell = f"SCALE = {scale}\ndef loss(trial): return SCALE * trial['x']"
        study = Study(
            name="cell",
            objective_function=of_cell(cell)["loss"],
            search_space={"x": {"low": 0.0, "high": 1.0}},
            direction="minimize",
        )
        study.run(trials=trials, engine="inline", review=False)
        return " ".join(capsys.readouterr().out.split())

    assert " changed" not in output(1.0, 1) + output(1.0, 2)
    assert "since trial #1 __main__:loss changed: later trials may differ" in output(2.0, 3)
    assert " changed" not in output(2.0, 4)


def test_a_change_is_reported_once_with_the_first_trial_after_it():
    history, note = with_sources(None, Sources(0, "a", {"x.py": "1", "y.py": "1"}))
    assert note == ""
    history, note = with_sources(history, Sources(3, "a", {"x.py": "1", "y.py": "1"}))
    assert (len(history), note) == (1, "")
    history, note = with_sources(history, Sources(5, "b", {"x.py": "2", "z.py": "1"}))
    assert note == (
        "since trial #4 x.py, y.py and z.py changed, and the commit is b, and was a: later trials may differ for "
        "this reason"
    )
    history, note = with_sources(history, Sources(8, "b", {"x.py": "2", "z.py": "1"}))
    assert note == ""
    assert [sources_of(history, number).commit for number in (0, 4, 5, 9)] == ["a", "a", "b", "b"]
    assert [numbers for _, numbers in versions_of(history, [0, 4, 5, 9])] == [[0, 4], [5, 9]]
    assert sources_of([{"trial": 3, "commit": "", "files": {}}], 2) is None


def test_a_trial_belongs_to_the_code_that_finished_it():
    old, new, newest = ({"x.py": version} for version in "123")
    history, _ = with_sources(None, Sources(0, "", old))
    history, _ = with_sources(history, Sources(4, "", new, frozenset({1, 3})))  # 1 is retried, 3 was interrupted
    assert [sources_of(history, number).files for number in range(5)] == [old, new, old, new, new]
    history, _ = with_sources(history, Sources(6, "", new, frozenset({2})))
    assert sources_of(history, 2).files == new
    history, _ = with_sources(history, Sources(6, "", newest, frozenset({3})))  # 4 and 5 are finished, 3 not yet
    assert [sources_of(history, number).files for number in range(7)] == [old, new, new, newest, new, new, newest]
    before, _ = with_sources(None, Sources(0, "", old))
    unused, _ = with_sources(before, Sources(2, "", new, frozenset({1})))
    again, _ = with_sources(unused, Sources(2, "", newest, frozenset({1})))
    assert [entry["files"] for entry in again] == [old, newest]
    for left in ({}, {1}):
        again, note = with_sources(unused, Sources(2, "", new, frozenset(left)))
        assert note.startswith("since trial #1 x.py changed") is bool(left)  # nothing was finished with it
        assert [sources_of(again, number).files for number in (0, 2)] == [old, new]


def test_a_trial_that_continued_with_other_code_has_both():
    now = Sources(9, "", {"x.py": "2", "y.py": "2"})
    history, _ = with_sources(None, Sources(0, "", {"x.py": "1", "y.py": "1"}))
    continued = Sources(3, "", {"x.py": "2", "y.py": "1"}, frozenset({1, 2}), frozenset({2}))
    history, _ = with_sources(history, continued)
    history, _ = with_sources(
        history, replace(continued, trial=5, unfinished=frozenset({1, 4}), begun=frozenset({1, 4}))
    )
    changes = {0: ["x.py and y.py changed"], 1: ["y.py changed"], 2: ["x.py and y.py changed"]}
    for number, clauses in {**changes, 3: ["y.py changed"], 4: ["y.py changed"]}.items():
        assert changes_since(history, number, now) == clauses


def test_a_change_before_the_first_trial_and_a_foreign_record_are_ignored():
    history, _ = with_sources(None, Sources(0, "", {"x.py": "1"}))
    assert with_sources(history, Sources(0, "", {"x.py": "2"}))[1] == ""
    for odd in ("text", [1], [{"trial": "x"}], 5):
        assert with_sources(odd, Sources(4, "", {"x.py": "2"}))[1] == ""


def edited_study(folder: StudyFolder) -> tuple[str, ...]:
    """Run a study of two trials with a module, edit the module, and add a third trial."""
    (folder.path / "changing_net.py").write_text(NET)
    (folder.path / "beside.yaml").write_text(NEXT_TO_MODULE.replace("beside_the_file", "changing_net"))
    options = ("--set", SEARCHED)
    assert " changed" not in folder.call(*options, study="beside.yaml")
    assert " changed" not in folder.call(*options, "--trials", "2", study="beside.yaml")
    (folder.path / "changing_net.py").write_text(NET.replace("Linear(4, 3)", "Linear(4, 3, bias=False)"))
    output = folder.call(*options, "--trials", "3", study="beside.yaml")
    assert "note: since trial #1 changing_net.py changed: later trials may differ" in output
    return options


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a folder with a study whose module was edited after its trial #1."""
    folder = StudyFolder(tmp_path_factory.mktemp("edited"))
    edited_study(folder)
    return folder


def best_of(folder: StudyFolder) -> int:
    ((number,),) = folder.optuna(
        "select number from trials join trial_values using (trial_id) join studies using (study_id) "
        "where study_name = 'beside' order by value desc, number limit 1"
    )
    return number


def test_a_study_reports_which_of_its_modules_changed_since_which_trial(folder: StudyFolder):
    options = edited_study(folder)
    assert " changed" not in folder.call(*options, "--trials", "4", study="beside.yaml")
    output = folder.command(replay, "beside", "--trial", "0", expect=1)
    assert "  changing_net.py changed" in output


def test_an_export_says_which_modules_changed_since_the_trial(edited: StudyFolder, tmp_path: Path):
    other = StudyFolder(shutil.copytree(edited.path, tmp_path / "copy"))
    number = best_of(other)
    (other.path / "changing_net.py").write_text(NET.replace("Linear(4, 3)", "Linear(4, 3, dtype=None)"))
    output = " ".join(other.command(export, "beside", "--to", str(tmp_path / "stored")).split())
    note = f"changing_net.py changed since trial #{number}. The export has the present code, and weights and values of"
    assert f"note: {note}" in output
    card = (tmp_path / "stored" / "README.md").read_text()
    assert f"Note: {note}" in card
    assert "to the last bit" not in card, "training again is no replay"

    number = next(each for each in range(3) if each != number)
    output = " ".join(other.command(export, "beside", "--trial", str(number), "--to", str(tmp_path / "again")).split())
    note = f"changing_net.py changed since trial #{number}. It was retrained, so the weights"
    assert f"note: {note}" in output
    card = (tmp_path / "again" / "README.md").read_text()
    assert f"Note: {note}" in card
    assert "to the last bit" in card


def test_an_export_of_a_trial_with_the_present_modules_has_no_note(edited: StudyFolder, tmp_path: Path):
    output = edited.command(export, "beside", "--trial", "2", "--to", str(tmp_path / "to"))
    assert output.split() == [str(tmp_path / "to")]
    assert "Note: " not in (tmp_path / "to" / "README.md").read_text()


def test_a_confirmation_names_the_changed_modules_instead_of_calling_the_study_optimistic(
    edited: StudyFolder, tmp_path: Path
):
    other = StudyFolder(shutil.copytree(edited.path, tmp_path / "copy"))
    module = other.path / "changing_net.py"
    module.write_text("import torch\n" + NET + "        torch.nn.init.zeros_(self[0].weight).requires_grad_(False)\n")
    arguments = ("beside", "--seeds", "2", *INLINE, "--devices", "cpu")
    output = " ".join(other.command(confirm, *arguments, "--top", "1").split())
    number = best_of(other)
    assert f"note: changing_net.py changed since #{number} constant" in output
    assert f"of #{number} constant, becomes " in output
    later = " ".join(other.command(lambda given: show(given[:3]), "beside").split())
    for text in (output, later.replace("With fresh seeds: ", "")):
        assert "changing_net.py changed in between, so the difference does not show how optimistic the study" in text
        assert "was optimistic by" not in text


def test_show_report_and_summary_tell_which_trials_ran_with_which_version(edited: StudyFolder, tmp_path: Path):
    finding = "The trials ran with 2 versions of changing_net.py, and may differ for this reason: "
    other = StudyFolder(shutil.copytree(edited.path, tmp_path / "copy"))
    with as_a_process(other.path) as output:
        assert show(["beside", "--storage", f"sqlite:///{other.path}/optuna.db"]) == 0
    assert f"{finding}#0 to #1 with version 1 and #2 with version 2." in " ".join(output.getvalue().split())
    other.command(report, "beside", "--output", str(tmp_path / "report.html"))
    assert f"{finding}#0 to #1 with version 1 and #2 with version 2." in (tmp_path / "report.html").read_text()

    (other.path / "changing_net.py").write_text(NET)  # as it was for #0 and #1
    options = ("--set", SEARCHED, "--trials", "4")
    output = " ".join(other.call(*options, study="beside.yaml").split())
    assert f"{finding}#0 to #1 and #3 with version 1 and #2 with version 2." in output
    output = other.call(*options, "-q", study="beside.yaml")
    assert finding not in " ".join(output.split())


def test_only_the_source_of_the_runs_counts_not_later_edits(edited: StudyFolder, tmp_path: Path):
    other = StudyFolder(shutil.copytree(edited.path, tmp_path / "copy"))
    module = other.path / "changing_net.py"
    first = best_of(other) < 2
    before, after = NET, NET.replace("Linear(4, 3)", "Linear(4, 3, bias=False)")
    module.write_text(before if first else after)
    arguments = ("beside", "--seeds", "1", "--top", "1", *INLINE, "--devices", "cpu")
    assert "changed in between" not in " ".join(other.command(confirm, *arguments).split())
    module.write_text(NET + "# edited\n")
    output = " ".join(other.command(confirm, *arguments).split())
    assert "The study's best value" in output
    assert "changed in between" not in output, "no run was trained with the last edit"
