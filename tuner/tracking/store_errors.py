"""Errors of MLflow's store: whether they may be temporary, and how to explain them to the user."""

import contextlib
import errno
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from tuner.errors import BadInputError, TunerError, needs_extra
from tuner.urls import is_web, without_password, without_passwords

__all__ = ["FORMS", "can_pass", "deleted_experiment", "explained", "is_refusal", "reason", "refused"]

FORMS = "write sqlite:///mlflow.db, postgresql://user@host/database or http://host:port"

TEMPORARY_CODES = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED"}
)
TEMPORARY_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EAGAIN", "EINTR", "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "EBUSY", "EPIPE"),
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ETIMEDOUT",),
    )
)
# Names of the error classes of artifact stores' clients.
TEMPORARY_NAME = re.compile(r"Connect(ion|Timeout)|Timeout|Unavailable|TooManyRequests|Throttl|SlowDown|RetryError")
ANSWERED = re.compile(r"too many (\d{3}) error responses")
"""The text of urllib3 about an error that a server answered; MLflow keeps nothing else of the answer."""
PERMANENT_REQUESTS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.TooManyRedirects,
)


def can_pass(error: BaseException) -> bool:
    """Return whether an error of a store may be temporary: a lost connection, a lock or a full disk."""
    return any(_is_temporary(each) for each in _chain(error))


def is_refusal(error: BaseException) -> bool:
    """Return whether an error is about the data themselves, so the store will never take them."""
    if isinstance(error, MlflowException):
        if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
            return True
        return any(isinstance(each, DataError | TypeError | ValueError | OverflowError) for each in _chain(error))
    return isinstance(error, TypeError | ValueError | OverflowError)


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, MlflowException) and error.error_code in TEMPORARY_CODES:
        return True
    if isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return True
    if isinstance(error, InterfaceError):  # SQLite raises it for values that it cannot bind
        return type(error.orig).__module__.partition(".")[0] != "sqlite3"
    if isinstance(error, requests.RequestException) and error.response is None:
        return not isinstance(error, PERMANENT_REQUESTS)
    if (status := _http_status(error)) is not None:
        return status in (408, 425, 429) or status >= 500
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in TEMPORARY_ERRNO
    return any(TEMPORARY_NAME.search(cls.__name__) for cls in type(error).__mro__)


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status of an error, from where the clients of artifact stores keep it; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's errors have a mapping
        status: Any = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None) or getattr(error, "status_code", getattr(error, "code", None))
    return status if isinstance(status, int) and 400 <= status < 600 else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and its causes and contexts."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def reason(error: BaseException, uri: str) -> str:
    """Return the message of an error on one line, without the password of the store's URI."""
    chain = list(_chain(error))
    said = next((each for each in chain if isinstance(each, DBAPIError) and each.orig is not None), None)
    network = [each for each in chain if isinstance(each, OSError) and each.strerror] if _of_network(chain) else []
    if said is not None:
        text = str(said.orig)
    elif network:
        text = str(network[-1].strerror)
    elif _of_network(chain):
        last = chain[-1]
        text = str(getattr(last, "reason", next((each for each in last.args if isinstance(each, Exception)), last)))
    elif isinstance(error, OSError) and error.filename2:  # a file was copied: the first one is temporary
        text = f"[Errno {error.errno}] {error.strerror}: {error.filename2}"
    else:
        text = str(error)
    if answered := ANSWERED.fullmatch(text):
        text = f"it answered {answered[1]}{_phrase(int(answered[1]))}"
    line = " ".join(without_passwords(text, uri).split())
    says_enough = line and isinstance(
        error, MlflowException | DBAPIError | ArgumentError | OSError | ImportError | TunerError
    )
    line = line if says_enough else f"{type(error).__name__}: {line}"
    return (line if len(line) <= 300 else f"{line[:300]} ...").rstrip(".:? ")


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _of_network(chain: Iterable[BaseException]) -> bool:
    return any(isinstance(each, requests.RequestException) for each in chain)


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn the errors of a store into a `BadInputError` that says what to do about them."""
    shown = without_password(uri)
    try:
        yield
    except TunerError:
        raise
    except (ArgumentError, NoSuchModuleError) as error:
        raise refused(f"{shown} cannot be used: {reason(error, uri)}; {FORMS}.") from error
    except ImportError as error:
        extra = f" PostgreSQL needs {needs_extra('postgresql')}." if uri.startswith("postgresql") else ""
        raise refused(f"{shown} needs a package that is not installed ({error}).{extra}") from error
    except Exception as error:
        raise refused(_explanation(error, uri, shown)) from error


def _explanation(error: Exception, uri: str, shown: str) -> str:
    said = reason(error, uri)
    code = getattr(error, "error_code", "")
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        advice = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that it knows."
        return f"{shown} refuses the login. {advice}"
    if code == "PERMISSION_DENIED":
        return f"{shown} does not let this user do that: {said}"
    if not is_web(uri):
        return f"{shown} cannot be used: {said}."
    chain = list(_chain(error))
    if any(isinstance(each, requests.exceptions.RetryError) for each in chain):
        return f"the server at {shown} cannot answer now: {said}. Try again later."
    if any(isinstance(each, requests.ConnectionError | requests.Timeout) for each in chain):
        advice = "Start it, or omit the option to log to a local file."
        return f"no MLflow server answers at {shown} ({said}). {advice}"
    return f"the server at {shown} is not a usable MLflow server: {said}."


def refused(text: str) -> BadInputError:
    """Return the error for a tracking URI that cannot be used."""
    return BadInputError([f"tracking uri: {text}"])


def deleted_experiment(name: str, identifier: str, uri: str) -> BadInputError:
    """Return the error for a deleted experiment, which MLflow keeps until ``mlflow gc``."""
    restore = f"MLFLOW_TRACKING_URI={without_password(uri)} mlflow experiments restore --experiment-id {identifier}"
    gone = f'MLflow: the experiment "{name}" was deleted'
    return BadInputError([f"{gone}. Restore it ({restore}), or give the study another name."])
