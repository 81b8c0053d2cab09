"""Addresses of databases and servers, and the passwords that may be in them."""

import os
import re
from collections.abc import Mapping

from tuner.errors import BadInputError

__all__ = ["DEFAULT_STORAGE", "has_password", "refuse_passwords", "storage_url", "without_password"]

DEFAULT_STORAGE = "sqlite:///optuna.db"
ADVICE = (
    "PostgreSQL takes it from PGPASSWORD or ~/.pgpass, an MLflow server from MLFLOW_TRACKING_PASSWORD; "
    "or put the whole URL into OPTUNA_STORAGE or MLFLOW_TRACKING_URI."
)

_PASSWORD = re.compile(r"(?<=://)([^/@]*?):[^/@]*(?=@)|(?<=[?&]password=)[^&]+")


def storage_url(given: str | None) -> str:
    """Return the URL of Optuna's database: what is given, else OPTUNA_STORAGE, else a file in this folder."""
    return given or os.environ.get("OPTUNA_STORAGE") or DEFAULT_STORAGE


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


def refuse_passwords(options: Mapping[str, str | None]) -> None:
    """Refuse URLs with a password on the command line.

    Args:
        options: URLs, by the options that gave them.

    Raises:
        BadInputError: If one has a password.
    """
    for option, url in options.items():
        if url and has_password(url):
            raise BadInputError([f"{option}: everybody on this machine can read the password there. {ADVICE}"])
