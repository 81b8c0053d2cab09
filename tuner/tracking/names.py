"""Names and texts in a form that MLflow can store. Plain Python: importing it does not import MLflow."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

__all__ = ["LONGEST_PARAM", "LONGEST_TAG", "NAME_RULE", "Names", "fitting", "storable", "value_text"]

LONGEST_NAME = 200
"""Below MLflow's own limit of 250, to leave room for a digest."""
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
NAME_RULE = "MLflow allows only letters, digits, spaces and _ - . : /"

_FORBIDDEN = re.compile(r"[^/\w.\- :]")


class Names:
    """Maps the names of a study's metrics to unique names that MLflow accepts; most names are unchanged.

    The mapping depends on the order in which metrics came, so it is stored in MLflow and passed here again.

    Args:
        given: MLflow's names by the metrics' names; names that stay the same can be left out.
        used: Names that are already used in MLflow.
    """

    def __init__(self, given: Mapping[str, str] | None = None, used: Iterable[str] = ()) -> None:
        self._given = dict(given or {})
        self._taken = {stored: name for name, stored in self._given.items()}
        self.use(used)

    def use(self, names: Iterable[str]) -> None:
        """Reserve names in MLflow for the metrics that have exactly these names."""
        for name in names:
            if self._taken.setdefault(name, name) == name:
                self._given[name] = name

    @property
    def stored(self) -> list[str]:
        """Return the names in MLflow that are used or reserved."""
        return sorted(self._taken)

    def __getitem__(self, name: str) -> str:
        """Return the name of a metric in MLflow."""
        if name not in self._given:
            stored = _nearest(name)
            if stored in self._taken:
                stored = f"{stored}_{_digest(name)}"
            self._given[name], self._taken[stored] = stored, name
        return self._given[name]

    def add(self, names: Iterable[str]) -> dict[str, str]:
        """Map new metrics, first those whose names can stay; return the names of new metrics that had to change."""
        new = [name for name in dict.fromkeys(names) if name not in self._given]
        for name in sorted(new, key=lambda name: _nearest(name) != name):
            self[name]
        return {name: self._given[name] for name in new if self._given[name] != name}


def _nearest(name: str) -> str:
    r"""Return the nearest name that MLflow accepts.

    >>> [_nearest(name) for name in ("val/AR@100", "a//b", "../x", "", "lr ", "val/\U0001f600")]
    ['val/AR_100', 'a/_/b', '__/x', '_', 'lr ', 'val/_']
    """
    parts = _FORBIDDEN.sub("_", name).split("/")
    nearest = "/".join("_" * max(1, len(part)) if part in ("", ".", "..") else part for part in parts)
    return nearest if len(nearest) <= LONGEST_NAME else f"{nearest[:LONGEST_NAME]}_{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def storable(text: object) -> str:
    r"""Return a text that every database and file can store: without NUL and lone surrogates.

    >>> storable("caf\udce9.png\0")
    'caf\\udce9.png\\x00'
    """
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def value_text(value: object) -> str:
    """Return the value of a parameter as text."""
    return value if isinstance(value, str) else json.dumps(value)


def fitting(text: object, longest: int) -> str:
    """Return a text that can be stored in so many characters; a text that is cut ends with its full length.

    >>> fitting("abcdefghijklmnopqrstuvwxyz0123456789", 30)
    'abcdefghij ... (36 characters)'
    """
    whole = storable(text)
    if len(whole) <= longest:
        return whole
    ending = f" ... ({len(whole)} characters)"
    return whole[: longest - len(ending)] + ending
