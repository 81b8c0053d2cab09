"""Reads a study file: plain YAML, with the line of every value kept for the error messages.

YAML 1.2's rules are used for plain scalars where YAML 1.1's surprise: ``1e-4`` is a number, ``on`` and ``no`` are text,
``010`` is ten, ``1:30`` is text. Tags, aliases and duplicate keys are rejected, as are files too large or too deep to
be a study.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tuner.config.document import COMMAND_LINE, NO_LINE, Document, Keys
from tuner.errors import BadInputError
from tuner.text import cut

__all__ = ["as_document", "as_yaml", "override", "quotes_advice", "read_document", "read_value"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_WHOLE = 2**63

_SCALARS: list[tuple[re.Pattern[str], Callable[[str], Any]]] = [
    (re.compile(r"|~|null|Null|NULL"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9]{1,300}"), int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: math.inf),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda text: math.inf),  # rejected like infinity, and easier to compare
]
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_LINE_BREAKS = re.compile(r"[\x85\u2028\u2029]")  # line breaks for PyYAML, but not for YAML 1.2 or editors


def read_document(path: Path) -> Document:
    """Read a study file. Errors in single values are in the document, which can be checked further.

    Raises:
        BadInputError: If it cannot be read or is not plain YAML.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInputError([f"{name}: no such file."]) from None
    except IsADirectoryError:
        raise BadInputError([f"{name}: is a directory; name a study file in it."]) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise BadInputError([f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})."]) from None
    if len(content) > MAX_BYTES:
        raise BadInputError([f"{name}: is larger than {MAX_BYTES // 1_000_000} MB, the limit for a study file."])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        raise BadInputError([f"{name}: is not UTF-8 text ({where})."]) from None
    document = Document(name, text=text)
    document.data = _Reader(document).read()
    if not isinstance(document.data, dict):
        found = {type(None): "is empty", list: "holds a list"}.get(type(document.data), "holds a single value")
        raise BadInputError(
            [f"{name}: expected a mapping with the keys name, trial, search_space, ...; the file {found}."]
        )
    return document


def read_value(text: str, name: str) -> Any:
    """Read a value given on the command line by the same rules.

    Args:
        text: The value.
        name: Its name in messages.

    Raises:
        BadInputError: If it is not plain YAML.
    """
    document = Document(name, text=text, command_line=name)
    value = _Reader(document, COMMAND_LINE).read()
    document.check()
    return value


def override(document: Document, assignment: str) -> None:
    """Override values of a file by ``dotted.path=value``; an invalid assignment becomes an error."""
    target, equals, text = assignment.partition("=")
    name, parts = f"--set {cut(target)}", re.sub(r"\[(\d+)\]", r".\1", target).split(".")
    try:
        if not equals or not target or len(parts) > MAX_DEPTH:
            raise BadInputError([f"{name}: write it as dotted.path=value."])
        if not text.strip():
            raise BadInputError([f"{name}: the value is missing; write null if that is intended."])
        document.put(parts, read_value(text, name))
    except BadInputError as error:
        document.faults.extend((COMMAND_LINE, fault) for fault in error.faults)
    except ValueError as error:
        document.faults.append((COMMAND_LINE, f"{name}: {error}"))
    else:
        end = "" if document.text.endswith("\n") else "\n"
        comment = assignment.replace("\n", "\n# ")
        document.text += f"{end}# --set {comment}\n"


def as_yaml(values: Any, *, compact: bool = False) -> str:
    """Return plain values as YAML, in their order.

    Args:
        values: The values.
        compact: Whether mappings and lists of scalars are written on one line, as in a study file.
    """
    style = None if compact else False
    return str(
        yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=style)
    )


class _Dumper(yaml.SafeDumper):
    """Puts text that a study file would take for a number into quotes, such as "1e-3"; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: a study file must not have aliases."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _meaning(text) == text else '"')


_Dumper.add_representer(str, _represent_text)


def as_document(name: str, values: Mapping[str, Any]) -> Document:
    """Return values that Python code gave as the content of a study file, checked like one.

    Args:
        name: Place of the values in messages.
        values: Plain values.
    """
    document = Document(name, text=as_yaml(values, compact=True), command_line=name)
    document.data = _Reader(document, NO_LINE).read()
    return document


class _NotPlainError(Exception):
    """Raised when the rest of the text is not worth reading."""


class _Reader:
    """Builds the data of a document from the parser's events, one by one: rejected parts are never built.

    Args:
        document: Holds the text, and receives the lines and the errors.
        line: The line to report for text that the user has not written; None to count lines.
    """

    def __init__(self, document: Document, line: int | None = None) -> None:
        self._document, self._fixed_line = document, line
        self._events = yaml.parse(document.text, Loader=yaml.SafeLoader)
        self._index = 0  # line index of the last event

    def read(self) -> Any:
        """Return the data; errors in single values are in the document.

        Raises:
            BadInputError: If the text cannot be read.
        """
        if odd := _LINE_BREAKS.search(self._document.text):
            self._note_character(odd.start())
            self._document.check()
        try:
            data = self._read()
        except yaml.MarkedYAMLError as error:
            self._note((), *_explained(error))
        except yaml.reader.ReaderError as error:
            self._note_character(error.position)
        except _NotPlainError as error:
            self._note((), str(error), self._index)
        except (ValueError, OverflowError):  # PyYAML has a bug here
            self._note((), "a number in an escape or in %YAML is too large.", self._index)
        else:
            return data
        return self._document.check()  # it raises the error

    def _read(self) -> Any:
        self._next()  # the beginning of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        data = self._build(self._next(), ())
        self._next()  # the end of the first document
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise _NotPlainError("a second YAML document begins here; write a single one.")
        return data

    def _next(self) -> yaml.Event:
        event = next(self._events)
        if event.start_mark:
            self._index = event.start_mark.line
        return event

    def _note(self, path: Keys, message: str, index: int, *, spoils: bool = False) -> None:
        self._document.note(path, message, self._line(index), spoils=spoils)

    def _note_character(self, position: int) -> None:
        before, after = self._document.text[:position], self._document.text[position:]
        self._note((), f"the character U+{ord(after[0]):04X} is not allowed.", before.count("\n"))

    def _line(self, index: int) -> int:
        return index + 1 if self._fixed_line is None else self._fixed_line

    def _build(self, event: yaml.Event, path: Keys) -> Any:
        self._document.lines.setdefault(path, self._line(self._index))
        if isinstance(event, yaml.AliasEvent):
            message = f"YAML aliases (*{event.anchor}) are not allowed; write the value out."
            self._note(path, message, self._index, spoils=True)
        if tag := getattr(event, "tag", None):
            self._note(path, f"YAML tags ({tag}) are not allowed.", self._index, spoils=True)
        if isinstance(event, yaml.CollectionStartEvent) and len(path) >= MAX_DEPTH:
            raise _NotPlainError(f"nested more than {MAX_DEPTH} levels.")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        return self._scalar(event, path) if isinstance(event, yaml.ScalarEvent) else None

    def _list(self, path: Keys) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._build(event, (*path, len(items))))
        return items

    def _mapping(self, path: Keys) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            index = self._index
            if isinstance(event, yaml.ScalarEvent):
                key = event.value
                self._refuse_odd_characters(key, path)
            else:
                key = "?"
                self._build(event, (*path, key))
                self._note(path, "a key must be plain text.", index)
            inner = (*path, key)
            first = self._document.lines.setdefault(inner, self._line(index))
            value = self._build(self._next(), inner)
            if key in data:
                self._note(inner, "given twice" + (f" (first on line {first})." if first else "."), index)
            elif isinstance(event, yaml.ScalarEvent):
                data[key] = value
        return data

    def _scalar(self, event: yaml.ScalarEvent, path: Keys) -> Any:
        text = event.value
        value = _meaning(text) if event.style is None else text  # without a style it is not in quotes
        if isinstance(value, str):
            self._refuse_odd_characters(value, path)
        elif isinstance(value, float) and not math.isfinite(value):
            self._note(path, f"must be finite (got {cut(text)}).", self._index, spoils=True)
        elif isinstance(value, int) and abs(value) >= MAX_WHOLE:
            self._note(path, f"must be less than 2**63 (got {cut(text)}).", self._index, spoils=True)
        return value

    def _refuse_odd_characters(self, text: str, path: Keys) -> None:
        """Reject characters that only an escape can produce, and few file names, databases or terminals support."""
        if odd := _ODD.search(text):
            message = f"the character U+{ord(odd[0]):04X} is not allowed."
            self._note(path, message, self._index, spoils=True)


def quotes_advice(value: Any, fits: Callable[[Any], bool]) -> str:
    """Return advice on a value that fits once its quotes are removed; nothing on another.

    Args:
        value: Text, or a list with text in it.
        fits: Returns whether a value is accepted.

    >>> quotes_advice("1e-2", lambda value: value == 0.01)
    ' In quotes it is text: write 1e-2.'
    """
    plain = _without_quotes(value)
    if plain == value or not fits(plain):
        return ""
    return f" In quotes it is text: write {value if isinstance(value, str) else 'it without quotes'}."


def _without_quotes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_quotes(item) for item in value]
    return _meaning(value) if isinstance(value, str) else value


def _meaning(text: str) -> Any:
    for pattern, convert in _SCALARS:
        if pattern.fullmatch(text):
            return convert(text)
    return text


def _explained(error: yaml.MarkedYAMLError) -> tuple[str, int]:
    """Return the error, and the index of its line: the opening bracket's, if one is not closed."""
    problem, begun = str(error.problem), error.context_mark
    index = error.problem_mark.line if error.problem_mark else begun.line if begun else 0
    if "'\\t'" in problem:
        return "a tab cannot indent YAML; use spaces.", index
    if error.context is None:
        return f"{problem}.", index
    is_open = error.context.startswith(("while parsing a flow", "while scanning a quoted"))
    if is_open and begun and begun.line != index:
        return f"{error.context} that begins here: {problem} (line {index + 1}).", begun.line
    return f"{error.context}{f' (line {begun.line + 1})' if begun else ''}: {problem}.", index
