"""The JSON schema of study files: it takes what is valid, refuses mistakes, and editors complete and explain by it."""

import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tuner.config.study_files import schema_file
from tuner.config.yaml_reader import read_document

ROOT = Path(__file__).parent.parent
SCHEMA = schema_file()
SHIPPED = sorted([*(ROOT / "studies").rglob("*.yaml"), *(ROOT / "examples").glob("*.yaml")])
MODELINE = "# yaml-language-server: $schema="
INSTALLED = ROOT / ".venv" / "node" / "node_modules" / ".bin"
SERVER = shutil.which("yaml-language-server", path=f"{INSTALLED}{os.pathsep}{os.environ['PATH']}")

VALIDATOR = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))


def faults(values: dict[str, Any]) -> list[str]:
    return [".".join(map(str, error.path)) for error in VALIDATOR.iter_errors(values)]


def test_the_schema_is_up_to_date_with_signatures_and_docstrings():
    contents = runpy.run_path(str(ROOT / "docs" / "make_schema.py"))["contents"]()
    assert contents == SCHEMA.read_text(), "run python docs/make_schema.py"
    VALIDATOR.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("path", [*SHIPPED, *(ROOT / "tests").glob("*.yaml")], ids=lambda path: path.name)
def test_studies_are_valid_by_the_schema(path: Path):
    assert faults(read_document(path).data) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_names_the_schema_in_its_first_line(path: Path):
    line = path.read_text().partition("\n")[0]
    assert line.startswith(MODELINE)
    assert (path.parent / line.removeprefix(MODELINE)).resolve() == SCHEMA


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"trial": {}, "budgett": {}}, ""),
        ({"trial": {"optimizer": {"name": "adam", "betas": [0.9, 0.99]}}}, "trial.optimizer"),
        ({"trial": {"optimizer": {"name": "adma"}}}, "trial.optimizer.name"),
        ({"trial": {"schedule": {"name": "cosine", "decay_steps": "10 steps"}}}, "trial.schedule.decay_steps"),
        ({"trial": {"trainer": {"max_epochs": 0.5}}}, "trial.trainer.max_epochs"),
        ({"trial": {}, "search_space": {"model.dropout": {"low": 1}}}, "search_space.model.dropout"),
        ({"trial": {}, "sampler": {"name": "random", "n_startup_trials": 3}}, "sampler"),
        ({"trial": {}, "pruner": "non"}, "pruner"),
    ],
)
def test_a_mistake_is_found_by_the_schema(values: dict[str, Any], place: str):
    assert place in faults(values)


def test_a_sampler_or_pruner_can_be_a_bare_name():
    assert faults({"trial": {}, "sampler": "random", "pruner": "none"}) == []


def test_groups_averages_and_further_schedules_are_known():
    group = {"parameters": "fc", "optimizer": {"initial_lr": 0.01}, "schedule": {"name": "constant"}}
    trial = {"groups": {"head": group}, "averaging": {"name": "ema"}, "momentum_schedule": {"name": "cosine"}}
    averaging = {"one_of": {"none": {}, "ema": {"decay": {"low": 0.9, "high": 0.99}}}}
    assert faults({"trial": trial, "search_space": {"averaging": averaging, "groups.head.x": [1, 2]}}) == []
    assert faults({"trial": {"groups": {"head": {"optimiser": {}}}}}) != []


def test_classes_of_the_user_are_not_judged():
    own = {"name": "mine:Net", "anything": 1}
    assert faults({"trial": {"model": own, "schedule": {"name": "mine:Own", "period": "5 epochs"}}}) == []
    choice = {"one_of": {"mine:Own": {"period": {"low": 1, "high": 2}}, "constant": None}}
    assert faults({"trial": {}, "search_space": {"schedule": choice}}) == []


class Editor:
    """A client of a language server, as in an editor that shows one file."""

    def __init__(self, server: str, file: Path) -> None:
        self._process = subprocess.Popen([server, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._uri, self._count = file.as_uri(), 0
        self.ask("initialize", {"processId": os.getpid(), "rootUri": file.parent.as_uri(), "capabilities": {}})
        self._send({"method": "initialized", "params": {}})

    def open(self, text: str) -> None:
        self._count += 1
        document = {"uri": self._uri, "languageId": "yaml", "version": self._count, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})

    def at(self, method: str, line: int, character: int) -> Any:
        place = {"textDocument": {"uri": self._uri}, "position": {"line": line, "character": character}}
        return self.ask(f"textDocument/{method}", place)

    def ask(self, method: str, params: Any) -> Any:
        self._count += 1
        number = self._count
        self._send({"id": number, "method": method, "params": params})
        while True:
            message = self._read()
            if message.get("id") == number and "method" not in message:
                return message.get("result")
            if "id" in message:  # a question of the server, such as for the settings
                self._send({"id": message["id"], "result": None})

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        content = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        length = 0
        while line := self._process.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return json.loads(self._process.stdout.read(length))


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[Editor]:
    if SERVER is None:
        pytest.skip("no yaml-language-server: npm install --prefix .venv/node yaml-language-server")
    opened = Editor(SERVER, tmp_path / "mine.yaml")
    yield opened
    opened.close()


def test_a_language_server_completes_and_explains_a_study_file(editor: Editor):
    begun = "trial:\n  optimizer:\n    name: adamw\n    weight_decay: 0.1\n    \n  trainer:\n    "
    editor.open(f"{MODELINE}{SCHEMA.as_uri()}\n{begun}")
    names = {item["label"] for item in editor.at("completion", 5, 4)["items"]}
    assert {"initial_lr", "beta1", "eps"} <= names
    assert "weight_decay" not in names, "it is given already"
    assert "momentum" not in names, "it is an argument of another optimizer"
    assert {"max_epochs", "precision"} <= {item["label"] for item in editor.at("completion", 7, 4)["items"]}
    hover = json.dumps(editor.at("hover", 4, 8))
    assert "Fraction by which each weight shrinks per step" in hover
    editor.open(f"{MODELINE}{SCHEMA.as_uri()}\ntrial:\n  schedule: {{name: cos}}\n")
    assert "cosine_restarts" in {item["label"] for item in editor.at("completion", 2, 22)["items"]}
