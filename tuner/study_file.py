"""Reads a study file: plain YAML, with the line of every key kept for the error messages.

YAML 1.2's rules are used for plain scalars where YAML 1.1's surprise: ``1e-4`` is a number, ``on`` and ``no`` are text,
``010`` is ten, ``1:30`` is text. Tags, aliases and duplicate keys are refused, as are files too large or too deep to be
a study.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tuner.errors import BadInputError

__all__ = ["Document", "read_document", "read_value"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

Path_ = tuple[str | int, ...]

_SCALARS: list[tuple[re.Pattern[str], Callable[[str], Any]]] = [
    (re.compile(r"|~|null|Null|NULL"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9]{1,300}"), int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda text: float("nan")),
]


@dataclass
class Document:
    """What a study file says, and where.

    Args:
        name: The file as the user named it.
        data: Mapping, lists and scalars of the file.
        lines: Line of each key and item, counted from 1, by its path.
        text: The file as it stands.
    """

    name: str
    data: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)
    text: str = ""

    def locate(self, path: Path_) -> str:
        """Return "file:line: dotted.path" of the nearest place that the file has."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = f":{self.lines[known]}" if known in self.lines else ""
        return f"{self.name}{line}: {dotted(path)}" if path else f"{self.name}{line}"


def dotted(path: Path_) -> str:
    """Return a path as text: ``trial.model.channels[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path) -> Document:
    """Read a study file.

    Raises:
        BadInputError: If it cannot be read or is not plain YAML; all the faults that can be told are listed.
    """
    name = str(path)
    if path.is_dir():
        raise BadInputError([f"{name}: is a directory; name a study file in it."])
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInputError([f"{name}: no such file."]) from None
    except OSError as error:
        raise BadInputError([f"{name}: cannot be read ({error.strerror})."]) from None
    if len(content) > MAX_BYTES:
        raise BadInputError([f"{name}: is {len(content) / 1e6:.1f} MB; the limit is {MAX_BYTES // 1_000_000} MB."])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError([f"{name}: is not UTF-8 text (byte {content[error.start]:#x} at {error.start})."]) from None
    document = Document(name=name, data={}, text=text)
    data = _parse(text, document)
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"holds a {'list' if isinstance(data, list) else 'single value'}"
        raise BadInputError(
            [f"{name}: expected a mapping with the keys name, trial, search_space, ...; the file {what}."]
        )
    document.data = data
    return document


def read_value(text: str, name: str) -> Any:
    """Read a value given on the command line by the same rules, as ``--set`` does.

    Raises:
        BadInputError: If it is not plain YAML.
    """
    return _parse(text, Document(name=name, data={}))


def _parse(text: str, document: Document) -> Any:
    _refuse_what_is_not_plain(text, document.name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        if "\\t" in str(error.problem) or "'\\t'" in str(error):
            raise BadInputError([f"{document.name}{line}: a tab cannot indent YAML; use spaces."]) from None
        raise BadInputError([f"{document.name}{line}: {error.problem}."]) from None
    except yaml.YAMLError as error:
        raise BadInputError([f"{document.name}: {error}".replace("\n", " ")]) from None
    faults: list[str] = []
    data = None if root is None else _build(root, (), document, faults)
    if faults:
        raise BadInputError(faults)
    return data


def _refuse_what_is_not_plain(text: str, name: str) -> None:
    """Look at the events first: they are produced one by one, so a bomb or a deep nest never gets built."""
    faults: list[str] = []
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                faults.append(f"{name}:{line}: YAML aliases (*{event.anchor}) are not allowed; write the value out.")
            elif tag := getattr(event, "tag", None):
                faults.append(f"{name}:{line}: YAML tags ({tag}) are not allowed.")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise BadInputError([*faults, f"{name}:{line}: nested more than {MAX_DEPTH} levels."])
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError:
        pass  # compose reports it with its place
    if faults:
        raise BadInputError(faults)


def _build(node: yaml.Node, path: Path_, document: Document, faults: list[str]) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), document, faults) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                faults.append(f"{document.name}:{line}: a key must be plain text.")
                continue
            key = key_node.value
            if key in data:
                first = document.lines[(*path, key)]
                faults.append(f"{document.name}:{line}: {dotted((*path, key))}: given twice (first on line {first}).")
                continue
            document.lines[(*path, key)] = line
            data[key] = _build(value_node, (*path, key), document, faults)
        return data
    value = _scalar(node.value, plain=isinstance(node, yaml.ScalarNode) and node.style is None)
    if isinstance(value, float) and not math.isfinite(value):
        faults.append(f"{document.locate(path)}: must be finite (got {value}).")
    return value


def _scalar(text: str, plain: bool) -> Any:
    if plain:  # not quoted
        for pattern, convert in _SCALARS:
            if pattern.fullmatch(text):
                return convert(text)
    return text
