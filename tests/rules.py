"""The words of the rules that a study file can break, once; the tables of the tests call them by short names."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

RULES = {
    "<length>": 'must be a number of steps, or text such as "5 epochs" or "25%"',
    "<component>": "must be a mapping, {name: ..., argument: value, ...}",
    "<whole number>": "must be a whole number",
    "<mapping>": "must be a mapping",
    "<number>": "must be a number",
    "<finite>": "must be finite",
    "<text>": "must be text",
    "<boolean>": "must be true or false",
    "<list>": "must be a list",
    "<name>": (
        "is not a valid name. Use a-z, 0-9, '.', '_', '-', at most 64 characters, starting with a letter or digit"
    ),
    "<duration>": "is not a duration; write 90s, 30m, 2h or 1h30m",
    "<rule>": "must hold, but got",
    "<unknown key>": "unknown key",
    "<no argument>": "has no argument",
    "<no place>": "trial has no",
    "<no import>": "cannot import",
    "<fixed>": "a fixed value belongs in trial",
    "<range keys>": "a range has low, high and, optionally, log, step and prior",
    "<range>": "a range belongs in search_space",
    "<near>": "Did you mean",
}
"""Words that begin with those of another rule come before it."""


def shortened(message: str) -> str:
    """Return a message with the short names of the rules that it states."""
    for name, words in RULES.items():
        message = message.replace(words, name)
    return message


@contextmanager
def refused(message: str, *errors: type[Exception]) -> Iterator[None]:
    """Expect an error, by default a ValueError, whose shortened message is this one."""
    with pytest.raises(errors or ValueError) as caught:
        yield
    assert shortened(str(caught.value)) == message
