"""Reading of study files, and the messages when one cannot be read."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rules import shortened
from tuner.config.document import Document
from tuner.config.yaml_reader import MAX_BYTES, override, read_document, read_value
from tuner.errors import BadInputError

FILE = Path("studies/x.yaml")


@pytest.fixture(autouse=True)
def in_a_folder_of_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path)


def read(text: str) -> Document:
    FILE.write_text(text)
    return read_document(FILE)


def faults(text: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        read(text).check()
    return [shortened(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("prepare", "name", "message"),
    [
        (lambda: None, "studies/x.yaml", "studies/x.yaml: no such file."),
        (lambda: None, "studies", "studies: is a directory; name a study file in it."),
        (
            lambda: FILE.write_bytes(b"name: ordinary\n# \xff"),
            "studies/x.yaml",
            "studies/x.yaml: is not UTF-8 text (byte 0xff at offset 17).",
        ),
        (
            lambda: FILE.write_text("#" * (MAX_BYTES + 1)),
            "studies/x.yaml",
            "studies/x.yaml: is larger than 1 MB, the limit for a study file.",
        ),
        (lambda: None, "/dev/zero", "/dev/zero: is larger than 1 MB, the limit for a study file."),
        (lambda: FILE.write_text("name: x"), "studies/x.yaml/y", "studies/x.yaml/y: cannot be read (Not a directory)."),
        (lambda: None, "x" * 5000, f"{'x' * 5000}: cannot be read (File name too long)."),
        (lambda: None, "a\0b", "a\0b: cannot be read (embedded null byte)."),
    ],
    ids=["missing", "directory", "not UTF-8", "too large", "endless", "below a file", "long name", "odd name"],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(prepare: Any, name: str, message: str) -> None:
    prepare()
    with pytest.raises(BadInputError) as caught:
        read_document(Path(name))
    assert caught.value.faults == (message,)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_by_name() -> None:
    FILE.write_text("name: x")
    FILE.chmod(0)
    with pytest.raises(BadInputError, match=r"^studies/x.yaml: cannot be read \(Permission denied\)\.$"):
        read_document(FILE)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty"),
        ("# only a remark\n", "is empty"),
        ("---\n", "is empty"),
        ("- name\n- trial\n", "holds a list"),
        ("name\n", "holds a single value"),
        ("3\n", "holds a single value"),
    ],
)
def test_a_file_without_a_mapping_at_the_top_is_refused(text: str, found: str) -> None:
    assert faults(text) == [
        f"studies/x.yaml: expected a mapping with the keys name, trial, search_space, ...; the file {found}."
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ntrial:\n\tdata: 1\n", "3: a tab cannot indent YAML; use spaces."),
        ("\tname: x\n", "1: a tab cannot indent YAML; use spaces."),
        ("name: x\nbudget: trials: 3\n", "2: mapping values are not allowed here."),
        (
            "name: [1, 2\nbudget: 3\n",
            "1: while parsing a flow sequence that begins here: expected ',' or ']', but got ':' (line 2).",
        ),
        (
            "name: 'x\n\n",
            "1: while scanning a quoted scalar that begins here: found unexpected end of stream (line 3).",
        ),
        ("name: x\n---\nname: y\n", "2: a second YAML document begins here; write a single one."),
        ("name: x\n...\nname: y\n", "3: expected '<document start>', but found '<block mapping start>'."),
        ("name: x\nbudget: \x07\n", "2: the character U+0007 is not allowed."),
        ('name: x\nbudget: "\\UFFFFFFFF"\n', "2: a number in an escape or in %YAML is too large."),
        (f"name: x\ntrial:\n  {'[' * 5000}\n", "3: nested more than 20 levels."),
        (f"name: {'{a: ' * 20}", "1: nested more than 20 levels."),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    assert faults(text) == [f"studies/x.yaml:{message}"]


def test_twenty_levels_are_allowed() -> None:
    assert read(f"name: {'[' * 19}{']' * 19}\n").faults == []


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("a: 1\nb: 2\n\na: 3\n", ["4: a: given twice (first on line 1)."]),
        ("a:\n  b: 1\n  'b': 2\n", ["3: a.b: given twice (first on line 2)."]),
        ("a: 1\na: 2\na: 3\n", ["2: a: given twice (first on line 1).", "3: a: given twice (first on line 1)."]),
        ("1: x\n'1': y\n", ["2: 1: given twice (first on line 1)."]),
        ("a:\n  ? [b, c]\n  : 2\n", ["2: a: a key must be plain text."]),
        (
            "a: .inf\nb: [1, -.inf, .NaN]\n",
            [
                "1: a: <finite> (got .inf).",
                "2: b[1]: <finite> (got -.inf).",
                "2: b[2]: <finite> (got .NaN).",
            ],
        ),
        ("a: 1e999\n", ["1: a: <finite> (got 1e999)."]),
        ("a: 9223372036854775808\n", ["1: a: must be less than 2**63 (got 9223372036854775808)."]),
        (f"a: -{'9' * 300}\n", [f"1: a: must be less than 2**63 (got -{'9' * 59}...)."]),
        (f"a: {'9' * 400}\n", [f"1: a: <finite> (got {'9' * 60}...)."]),
        ("a: &x 1\nb: *x\n", ["2: b: YAML aliases (*x) are not allowed; write the value out."]),
        ("a: &x\n  b: *x\n", ["2: a.b: YAML aliases (*x) are not allowed; write the value out."]),
        ("a: *nowhere\n", ["1: a: YAML aliases (*nowhere) are not allowed; write the value out."]),
        ("<<: *x\n", ["1: <<: YAML aliases (*x) are not allowed; write the value out."]),
        (
            "a:\n  b: !!python/object/apply:os.system [ls]\n",
            ["2: a.b: YAML tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed."],
        ),
        ("a: !!int 3\n", ["1: a: YAML tags (tag:yaml.org,2002:int) are not allowed."]),
        ('a: "\\0"\n', ["1: a: the character U+0000 is not allowed."]),
        ('"\\ud800": 1\n', ["1: the character U+D800 is not allowed."]),
        ("a: b # \u2028\n", ["1: the character U+2028 is not allowed."]),
        ('"a": "\\L"\n', ["1: a: the character U+2028 is not allowed."]),
    ],
)
def test_a_value_that_a_study_cannot_have_is_refused_with_its_line_and_path(text: str, messages: list[str]) -> None:
    assert faults(text) == [f"studies/x.yaml:{message}" for message in messages]


def test_an_alias_bomb_is_never_built() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    found = faults("\n".join(levels))
    assert len(found) == 8 * 9
    assert found[0] == "studies/x.yaml:2: a1[0]: YAML aliases (*a0) are not allowed; write the value out."


def test_all_faults_are_reported_at_once_in_the_order_of_the_lines() -> None:
    assert faults("z: .inf\na: 1\nb: !x 2\na: 2\n") == [
        "studies/x.yaml:1: z: <finite> (got .inf).",
        "studies/x.yaml:3: b: YAML tags (!x) are not allowed.",
        "studies/x.yaml:4: a: given twice (first on line 2).",
    ]


def test_of_many_faults_a_hundred_are_reported() -> None:
    found = faults("".join(f"k{index}: .inf\n" for index in range(3000)))
    assert len(found) == 101
    assert found[-1] == "... and possibly more; fix these first."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("010", 10),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        ("2026-11-21", "2026-11-21"),
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("1.10", 1.1),
        ("val/acc", "val/acc"),
        ("torch.optim:NAdam", "torch.optim:NAdam"),
        ("{low: 1, high: 2.0, log: true}", {"low": 1, "high": 2.0, "log": True}),
        ("[1, [a, null]]", [1, ["a", None]]),
    ],
)
def test_plain_values_have_their_obvious_types(text: str, value: Any) -> None:
    result = read_value(text, "--set x")
    assert result == value
    assert type(result) is type(value)


def test_keys_are_always_text() -> None:
    assert read("1: a\ntrue: b\nnull: c\n").data == {"1": "a", "true": "b", "null": "c"}


def test_a_byte_order_mark_and_windows_lines_are_read() -> None:
    FILE.write_bytes("\ufeffname: x\r\nbudget: {trials: 3}\r\n".encode())
    assert read_document(FILE).data == {"name": "x", "budget": {"trials": 3}}


def test_a_fault_is_at_the_line_of_the_nearest_thing_that_the_file_has() -> None:
    document = read("a:\n  b:\n  - c: 1\n  - d: 2\n")
    for path in ((), ("a",), ("a", "b", 1, "d"), ("a", "b", 1, "e"), ("z", "y")):
        document.fault(path, "wrong.")
    assert [message for _, message in document.faults] == [
        "studies/x.yaml:1: wrong.",
        "studies/x.yaml:1: a: wrong.",
        "studies/x.yaml:4: a.b[1].d: wrong.",
        "studies/x.yaml:4: a.b[1].e: wrong.",
        "studies/x.yaml:1: z.y: wrong.",
    ]


def test_consequences_of_a_fault_are_not_reported() -> None:
    document = read("a: {b: .inf, c: 1}\n")
    document.fault(("a", "b"), "must be a whole number.")
    document.fault(("a",), "has no sum.")
    document.fault(("a", "c"), "must be 2.")
    assert faults_of(document) == [
        "studies/x.yaml:1: a.b: <finite> (got .inf).",
        "studies/x.yaml:1: a.c: must be 2.",
    ]
    assert document.fault_count == 3


def faults_of(document: Document) -> list[str]:
    return [shortened(message) for _, message in document.faults]


# -- values of the command line ----------------------------------------------------------------------------------------

STUDY = """\
trial:
  model:
  optimizer: {eps: 1}
search_space:
  optimizer.eps: {low: 1, high: 2}"""


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("name=x", ["name"], "x"),
        ("trial.optimizer.eps=1e-3", ["trial", "optimizer", "eps"], 1e-3),
        ("trial.optimizer.beta1=.5", ["trial", "optimizer", "beta1"], 0.5),
        ("trial.model.name=a=b", ["trial", "model", "name"], "a=b"),
        ("trial.trainer.max_epochs=3", ["trial", "trainer", "max_epochs"], 3),
        ("search_space.optimizer.eps.high=5", ["search_space", "optimizer.eps", "high"], 5),
        ("search_space.optimizer.eps={choices: [1, 2]}", ["search_space", "optimizer.eps"], {"choices": [1, 2]}),
        ("search_space.model.width={low: 1, high: 2}", ["search_space", "model.width"], {"low": 1, "high": 2}),
        ("search_space={}", ["search_space"], {}),
        ("search_space.optimizer.eps.log=null", ["search_space", "optimizer.eps", "log"], None),
        ("trial.model=null", ["trial", "model"], None),
    ],
)
def test_the_command_line_puts_a_value_where_its_dotted_path_leads(
    assignment: str, path: list[str], value: Any
) -> None:
    document = read(STUDY)
    override(document, assignment)
    found = document.data
    for key in path:
        found = found[key]
    assert found == value
    assert document.faults == []
    assert document.text == f"{STUDY}\n# --set {assignment}\n"
    document.fault(tuple(path), "wrong.")
    assert faults_of(document) == [f"--set: {'.'.join(path)}: wrong."]


def test_the_command_line_replaces_a_value_of_a_list_at_its_position() -> None:
    document = read("objective: [{metric: a}, {metric: b}]")
    for assignment in ("objective.1.metric=c", "objective[0]={metric: d}"):
        override(document, assignment)
    assert document.data["objective"] == [{"metric": "d"}, {"metric": "c"}]
    document.fault(("objective", 1, "metric"), "wrong.")
    for place in ("2", "x"):
        override(document, f"objective.{place}.metric=c")
    wrong = "objective is a list with the positions 0 to 1; it has no {}. The whole list can be replaced."
    assert faults_of(document) == [
        "--set: objective[1].metric: wrong.",
        *(f"--set objective.{place}.metric: {wrong.format(place)}" for place in ("2", "x")),
    ]


def test_values_that_the_command_line_replaced_have_no_line() -> None:
    document = read(STUDY)
    override(document, "search_space.optimizer.eps={low: 3, high: 2}")
    document.fault(("search_space", "optimizer.eps", "low"), "wrong.")
    document.fault(("search_space",), "wrong.")
    assert faults_of(document) == [
        "--set: search_space.optimizer.eps.low: wrong.",
        "studies/x.yaml:4: search_space: wrong.",
    ]


@pytest.mark.parametrize("name", ["optimizer.eps", "optimizer.beta1"])
def test_null_on_the_command_line_takes_an_entry_out_of_the_search_space(name: str) -> None:
    document = read(STUDY)
    override(document, f"search_space.{name}=null")
    assert name not in document.data["search_space"]
    assert document.faults == []


def test_the_last_of_several_assignments_counts() -> None:
    document = read(STUDY)
    override(document, "name=a\nb")
    override(document, "name=c")
    assert document.data["name"] == "c"
    assert document.text == f"{STUDY}\n# --set name=a\n# b\n# --set name=c\n"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("name", "--set name: write it as dotted.path=value."),
        ("=3", "--set : write it as dotted.path=value."),
        ("", "--set : write it as dotted.path=value."),
        ("name=", "--set name: the value is missing; write null if that is intended."),
        ("name=[1", "--set name: while parsing a flow sequence (line 1): expected ',' or ']', but got '<stream end>'."),
        ("name=.inf", "--set name: <finite> (got .inf)."),
        ("name={a: 1, a: 2}", "--set name: a: given twice."),
        ("name=*x", "--set name: YAML aliases (*x) are not allowed; write the value out."),
        ("name=\x00", "--set name: the character U+0000 is not allowed."),
        (
            "trial.optimizer.eps.low=1",
            "--set trial.optimizer.eps.low: trial.optimizer.eps is neither a mapping nor a list; it has no low.",
        ),
        (f"{'a.' * 20}a=1", f"--set {('a.' * 30)[:41]}: write it as dotted.path=value."),
        (f"{'a.' * 40}a=1", f"--set {'a.' * 30}...: write it as dotted.path=value."),
    ],
)
def test_an_invalid_assignment_is_refused(assignment: str, message: str) -> None:
    document = read(STUDY)
    override(document, assignment)
    assert faults_of(document) == [message]
    assert document.text == STUDY


# -- any text ----------------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc.:-1", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_json_is_read_with_its_types(value: Any) -> None:
    assert read_value(json.dumps(value, ensure_ascii=False), "x") == value


words = ["a", "1", ".5", "1e9", "- ", ": ", "? ", "&a ", "*a", "!!int ", "  ", "---\n", "...\n", "|\n", ">-\n", "<<: "]
escapes = ["\\x", "\\U00110000", "\\UFFFFFFFF", "\\ud800", "%YAML 1.9\n", f"%YAML 1.{'9' * 5000}\n"]
pieces = st.sampled_from([*words, *escapes, *"[]{}:,-?*&!|>'\"%@`#\\ \n\t\x00\u2028\ufeff\ud800"])


@given(st.lists(pieces, max_size=25).map("".join) | st.text(max_size=30))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    try:
        read_value(text, "--set x")
    except BadInputError as error:
        faults = error.faults
    else:
        return
    assert faults
    assert all(fault.startswith("--set x: ") for fault in faults)
