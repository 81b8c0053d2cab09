"""The Python API, as shown in the README."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY
from tuner import Study
from tuner.errors import BadInputError

SCRIPT = f"""
import asyncio, sys, threading
from tuner import Study

assert "torch" not in sys.modules and "optuna" not in sys.modules
print("begun")
study = Study.from_yaml({str(TINY)!r}, "trial.trainer.max_epochs=1")

async def main():
    return study.run(trials=2, per_device=2, review=False, quiet=True)

result = asyncio.run(main())
assert list(result.trials.index) == [0, 1] and set(result.trials.state) == {{"complete"}}
assert result.best.value == max(result.trials.value) and result.best.weights.exists()
assert result.best.config["model"]["name"] == "mlp" and "test/acc" in result.best.test
assert result.plot_lr()._repr_png_().startswith(b"\\x89PNG")

results = []
other = threading.Thread(target=lambda: results.append(study.run(trials=3, per_device=2, review=False)))
other.start()
other.join()
print(results[0])
"""


def test_a_script_without_a_main_guard_runs_a_study_in_an_event_loop_and_in_a_thread(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begun") == 1
    assert "Result(tiny: 3 trials, best #" in done.stdout


def test_a_notebook_shows_the_progress_the_table_and_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [
        f"from tuner import Study\nresult = Study.from_yaml({str(TINY)!r}, 'trial.trainer.max_epochs=1').run("
        "trials=1, engine='inline', review=False)",
        "result.plot_lr()",
        "result.trials",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")  # a kernel that dies tells nothing else
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    first, second, third = ([output.get("data", {}) for output in cell.outputs] for cell in notebook.cells)
    assert any("val/acc" in data.get("text/html", "") for data in first)
    assert "image/png" in second[0]
    assert "complete" in third[0]["text/html"]


def test_a_bad_file_is_refused_before_anything_runs():
    with pytest.raises(BadInputError, match="max_epochs"):
        Study.from_yaml(TINY, "trial.trainer.max_epochs=0")
