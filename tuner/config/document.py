"""The content of a study file, the line of every value, and the errors that were found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.errors import BadInputError

__all__ = ["COMMAND_LINE", "NO_LINE", "Document", "Keys", "Node", "Nodes", "dotted"]

MAX_FAULTS = 100
COMMAND_LINE = 0
NO_LINE = -1

Keys = tuple[str | int, ...]
"""Path of a value: the keys and list indices that lead to it."""


@dataclass
class Document:
    """A study file: its content, the lines of its values, and its errors.

    Args:
        name: The file as the user named it.
        data: Mapping, lists and scalars of the file.
        lines: Line of each key and item by its path, counted from 1; 0 for values that the command line set, -1
            for values that Python code gave.
        text: The text of the file, followed by what the command line set, as comments.
        command_line: Name of the place with line 0, in messages.
        faults: Line and message of each reported error.
        fault_count: Number of errors found, including those that were not reported because they follow from others.
    """

    name: str
    data: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    text: str = ""
    command_line: str = "--set"
    faults: list[tuple[int, str]] = field(default_factory=list)
    fault_count: int = 0
    _spoiled: set[Keys] = field(default_factory=set)

    def fault(self, path: Keys, message: str, *, spoils: bool = False) -> None:
        """Record an error, unless it follows from another.

        Args:
            path: Its place.
            message: The error and its remedy.
            spoils: Whether to suppress all other errors at this place, above it and below it.
        """
        self.fault_count += 1
        if any(path[: len(other)] == other[: len(path)] for other in self._spoiled):
            return
        self.note(path, message, self._line(path), spoils=spoils)

    def note(self, path: Keys, message: str, line: int, *, spoils: bool = False) -> None:
        """Record an error at a line, even if it follows from another."""
        if len(self.faults) >= MAX_FAULTS:
            return
        place = {COMMAND_LINE: self.command_line, NO_LINE: self.name}.get(line) or f"{self.name}:{line}"
        fault = (line, f"{place}: {dotted(path)}: {message}" if path else f"{place}: {message}")
        if fault not in self.faults:
            self.faults.append(fault)
        if spoils:
            self._spoiled.add(path)

    def check(self) -> None:
        """Raise the errors, in the order of their lines.

        Raises:
            BadInputError: If there is any error.
        """
        if self.faults:
            messages = [message for _, message in sorted(self.faults, key=lambda fault: fault[0])]
            more = ["... and possibly more; fix these first."] if len(messages) >= MAX_FAULTS else []
            raise BadInputError(messages + more)

    def put(self, parts: Sequence[str], value: Any) -> None:
        """Set a value from the command line, in the place of the one in the file.

        Args:
            parts: The keys of its dotted path, and positions in lists, from 0.
            value: The value; None removes an entry of search_space.

        Raises:
            ValueError: If a value on the path has no such key or position.
        """
        node, path = self.data, Keys()
        key: str | int
        while True:
            if isinstance(node, list):
                key, parts = _position(node, parts[0], path), parts[1:]
            elif isinstance(node, dict):
                key, parts = _next_key(node, parts, path)
            else:
                raise ValueError(f"{dotted(path)} is neither a mapping nor a list; it has no {parts[0]}.")
            path = (*path, key)
            if not parts:
                break
            if isinstance(key, str) and node.get(key) is None:
                node[key] = {}
                self._set_by_command_line(path)
            node = node[key]
        node[key] = value
        if value is None and path[:-1] == ("search_space",):
            del node[key]
        self._set_by_command_line(path)

    @property
    def is_file(self) -> bool:
        """Return whether it is a study file, and not a schedule given only by options."""
        return bool(self.name)

    def is_from_command_line(self, path: Keys) -> bool:
        """Return whether the command line set the value at a path."""
        return self._line(path) == COMMAND_LINE

    def _set_by_command_line(self, path: Keys) -> None:
        self.lines = {known: line for known, line in self.lines.items() if known[: len(path)] != path}
        self.lines[path] = COMMAND_LINE

    def _line(self, path: Keys) -> int:
        """Return the line of a path, or of its nearest ancestor that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


@dataclass
class Node:
    """A value of a study file and its path.

    Args:
        value: A scalar, a list of nodes or a mapping of nodes.
        path: Its path in the file.
        base: The value in `trial` that it replaces, if it comes from search_space.
    """

    value: Any
    path: Keys
    base: "Node | None" = None

    @classmethod
    def of(cls, raw: Any, path: Keys) -> "Node":
        """Turn a value of a file into nodes."""
        if isinstance(raw, dict):
            return cls({key: cls.of(each, (*path, key)) for key, each in raw.items()}, path)
        if isinstance(raw, list):
            return cls([cls.of(each, (*path, index)) for index, each in enumerate(raw)], path)
        return cls(raw, path)

    @property
    def searched(self) -> bool:
        """Return whether it is in search_space, where ranges are allowed."""
        return self.path[:1] == ("search_space",)

    @property
    def raw(self) -> Any:
        """Return the value as it is in the file, without nodes."""
        if isinstance(self.value, dict):
            return {key: node.raw for key, node in self.value.items()}
        return [node.raw for node in self.value] if isinstance(self.value, list) else self.value

    def child(self, key: str) -> "Node | None":
        """Return the node at a key or, in a list, at an index; None if there is none."""
        if isinstance(self.value, list):
            return self.value[int(key)] if key.isdecimal() and int(key) < len(self.value) else None
        return self.value.get(key) if isinstance(self.value, dict) else None

    def put(self, key: str, node: "Node") -> None:
        """Set the node at a key or an index."""
        self.value[int(key) if isinstance(self.value, list) else key] = node


Nodes = Mapping[str, Node]


def _next_key(node: dict[str, Any], parts: Sequence[str], path: Keys) -> tuple[str, Sequence[str]]:
    """Split off the next key. A key of search_space contains dots, so the longest known key is taken."""
    known = [n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in node]
    length = known[0] if known else len(parts) if path == ("search_space",) else 1
    return ".".join(parts[:length]), parts[length:]


def _position(node: list[Any], part: str, path: Keys) -> int:
    """Return the position in a list that a part of a dotted path names.

    Raises:
        ValueError: If it names none.
    """
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    known = f"the positions 0 to {len(node) - 1}" if node else "no items"
    raise ValueError(f"{dotted(path)} is a list with {known}; it has no {part}. The whole list can be replaced.")


def dotted(path: Keys) -> str:
    """Return a path as text.

    >>> dotted(("trial", "model", "channels", 1))
    'trial.model.channels[1]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
