"""Addresses of databases and servers, and the passwords that may be in them."""

import re

__all__ = ["has_password", "without_password"]

_PASSWORD = re.compile(r"(?<=://)([^/@]*?):[^/@]*(?=@)|(?<=[?&]password=)[^&]+")


def has_password(url: str) -> bool:
    """Tell whether a URL holds a password.

    >>> has_password("postgresql://tuner:secret@db/optuna"), has_password("postgresql://tuner@db:5432/optuna")
    (True, False)
    """
    return _PASSWORD.search(url) is not None


def without_password(url: str) -> str:
    """Return a URL that can be shown.

    >>> without_password("postgresql://tuner:secret@db/optuna"), without_password("postgresql:///x?password=secret&a=1")
    ('postgresql://tuner@db/optuna', 'postgresql:///x?password=&a=1')
    """
    return _PASSWORD.sub(r"\1", url)
