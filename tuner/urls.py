"""URLs of databases and servers, and how to show them without passwords."""

import os
import re
import urllib.parse
from collections.abc import Mapping

from tuner.errors import BadInputError

__all__ = [
    "DEFAULT_STORAGE",
    "has_password",
    "is_web",
    "refuse_passwords",
    "storage_url",
    "without_password",
    "without_passwords",
]

DEFAULT_STORAGE = "sqlite:///optuna.db"
ADVICE = (
    "PostgreSQL takes it from PGPASSWORD or ~/.pgpass, an MLflow server from MLFLOW_TRACKING_PASSWORD; "
    "or put the whole URL into OPTUNA_STORAGE or MLFLOW_TRACKING_URI."
)

# The password ends at the last "@" before the query, so it may contain "/", ":" and "@". If a database URL has no "@"
# there, the password may also contain "?", and ends at a later "@".
# An environment file may add quotes and spaces, which are kept as they are; the scheme may be missing by mistake.
_LOGIN = re.compile(r"^([\s'\"]*(?:[\w.+-]+://|(?!.*://)))([^:/?#@]*)(?::([^?]*|.*?))?@", re.DOTALL)
_IN_TEXT = re.compile(r"([\w.+-]+://)([^\s:/?#@'\"]*):[^\s@'\"]+@")
_SETTING = re.compile(r"(?<=[?&;])([^=?&;#]+)=([^&#]*)")
_SECRET_NAME = re.compile(
    r"pass(?!file)|pwd|secret|token|api.?key|access.?key|credential|signature|^sig$|^auth$", re.IGNORECASE
)
_SECRET_INSIDE = re.compile(r"(password|pwd)\s*=", re.IGNORECASE)  # in a connection string within a setting
_SHORTEST = 4  # shorter secrets are not replaced in texts, because they match parts of ordinary words


def storage_url(given: str | None) -> str:
    """Return the URL of Optuna's database: the given one, else OPTUNA_STORAGE, else a file in this folder.

    Raises:
        BadInputError: If it is not text.
    """
    if not isinstance(given, str | None):
        raise BadInputError([f"storage: must be text, such as {DEFAULT_STORAGE} (got {given!r})."])
    return given or os.environ.get("OPTUNA_STORAGE") or DEFAULT_STORAGE


def has_password(url: str) -> bool:
    """Return whether a URL contains a password, before its host or in its query.

    >>> has_password("postgresql://tuner:secret@db/optuna"), has_password("postgresql://tuner@db:5432/optuna")
    (True, False)
    """
    return bool(_secrets(url))


def without_password(url: str) -> str:
    """Return a URL without its password; of a web address also without the user name, which may be a token.

    >>> without_password("postgresql://tuner:se/cret@db/x"), without_password("postgresql:///x?password=secret&a=1")
    ('postgresql://tuner@db/x', 'postgresql:///x?password=&a=1')
    """
    login = _login(url)
    if login is not None:
        scheme, user, _ = login.groups()
        url = f"{scheme}{'' if is_web(scheme) else f'{user}@'}{url[login.end() :]}"
    return _SETTING.sub(lambda setting: f"{setting[1]}=" if _is_secret(setting) else setting[0], url)


def without_passwords(text: str, *urls: str) -> str:
    """Return a message without the passwords of the given URLs and of any URL in the message.

    >>> without_passwords("no host in http://ada:secret@mlflow/api", "http://ada:secret@mlflow")
    'no host in http://mlflow/api'
    """
    for url in urls:
        text = text.replace(url, without_password(url))
        for secret in _secrets(url):
            for form in {secret, urllib.parse.unquote(secret), urllib.parse.quote(secret, safe="")}:
                if len(form) >= _SHORTEST:
                    text = text.replace(form, "***")
    return _IN_TEXT.sub(r"\1\2@", text)


def _secrets(url: str) -> list[str]:
    login = _login(url)
    rest = url[login.end() :] if login else url
    found = [login[3]] if login and login[3] else []
    return found + [setting[2] for setting in _SETTING.finditer(rest) if setting[2] and _is_secret(setting)]


def _login(url: str) -> re.Match[str] | None:
    login = _LOGIN.match(url)
    if login and is_web(login[1]) and re.match(r"\d+(/[^?]*)?\?", login[3] or ""):
        return None  # http://host:5000/path?mail=a@b has a port, a path and a query, not a password
    return login


def is_web(url: str) -> bool:
    """Return whether a URL is a web address."""
    return url.lower().lstrip(" '\"\t").startswith(("http://", "https://"))


def _is_secret(setting: re.Match[str]) -> bool:
    name, value = (urllib.parse.unquote_plus(part) for part in setting.groups())
    return bool(_SECRET_NAME.search(name) or _SECRET_INSIDE.search(value))


def refuse_passwords(options: Mapping[str, str | None]) -> None:
    """Reject URLs with a password on the command line.

    Args:
        options: URLs by the names of their options.

    Raises:
        BadInputError: If one has a password.
    """
    for option, url in options.items():
        if url and has_password(url):
            raise BadInputError([f"{option}: every user of this machine can read a password there. {ADVICE}"])
