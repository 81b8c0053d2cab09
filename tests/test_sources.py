"""The source files of a study's own modules, and reports of their changes."""

import sys
from pathlib import Path

import pytest

from tests.studies import StudyFolder
from tests.test_own import NET, NEXT_TO_MODULE
from tuner.config.sources import Sources, own_sources, sources_of, with_sources
from tuner.replay import main as replay

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
    assert sources_of([{"trial": 3, "commit": "", "files": {}}], 2) is None


def test_a_change_before_the_first_trial_and_a_foreign_record_are_ignored():
    history, _ = with_sources(None, Sources(0, "", {"x.py": "1"}))
    assert with_sources(history, Sources(0, "", {"x.py": "2"}))[1] == ""
    for odd in ("text", [1], [{"trial": "x"}], 5):
        assert with_sources(odd, Sources(4, "", {"x.py": "2"}))[1] == ""


def test_a_study_reports_which_of_its_modules_changed_since_which_trial(folder: StudyFolder):
    (folder.path / "changing_net.py").write_text(NET)
    (folder.path / "beside.yaml").write_text(NEXT_TO_MODULE.replace("beside_the_file", "changing_net"))
    options = ("--set", "search_space.optimizer.initial_lr={low: 1e-3, high: 1e-1}")
    assert "changed" not in folder.call(*options, study="beside.yaml")
    assert "changed" not in folder.call(*options, "--trials", "2", study="beside.yaml")
    (folder.path / "changing_net.py").write_text(NET.replace("Linear(4, 3)", "Linear(4, 3, bias=False)"))
    output = folder.call(*options, "--trials", "3", study="beside.yaml")
    assert "note: since trial #1 changing_net.py changed: later trials may differ" in output
    assert "changed" not in folder.call(*options, "--trials", "4", study="beside.yaml")
    output = folder.command(replay, "beside", "--trial", "0", expect=1)
    assert "  changing_net.py changed" in output
