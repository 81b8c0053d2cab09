"""Connections to PostgreSQL that fail if the server does not answer.

TCP settings detect that a machine or a cable is gone. If only the server's processes hang, the kernel of its machine
still acknowledges every packet, and a client would wait forever.
"""

import functools
import time
from collections.abc import Callable, Generator
from typing import Any

from tuner import interrupts

__all__ = ["TCP_SETTINGS", "connect"]

TCP_SETTINGS = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""Settings of libpq with which a lost connection is noticed in a minute."""

SILENCE_SECONDS = 30.0
CONNECT_SECONDS = 10


def connect(*arguments: Any, is_hurried: Callable[[], bool] = lambda: False, **settings: Any) -> Any:
    """Return a connection of psycopg, which is closed if the server sends nothing for `SILENCE_SECONDS`.

    So a statement must not wait longer than that for a lock.

    Args:
        arguments: Positional arguments of ``psycopg.connect``.
        is_hurried: Returns whether the server must answer within a few seconds.
        settings: Named arguments of ``psycopg.connect``, which take precedence over those here.

    Raises:
        psycopg.OperationalError: If the server cannot be reached. Later requests raise it when it is silent.
        ImportError: If psycopg is not installed.
    """
    patience = interrupts.HURRIED_SECONDS if is_hurried() else CONNECT_SECONDS
    defaults = {**TCP_SETTINGS, "connect_timeout": patience}
    connection = _connection_class().connect(*arguments, **{**defaults, **settings})
    connection.is_hurried = is_hurried
    return connection


@functools.cache
def _connection_class() -> Any:
    import psycopg

    class Connection(psycopg.Connection[Any]):
        """A connection on which the server answers in time."""

        is_hurried: Callable[[], bool] = staticmethod(lambda: False)

        def wait(self, gen: Generator[Any, Any, Any], *options: Any, **more: Any) -> Any:
            """Run a request of psycopg, and return its result."""
            return super().wait(self._until_silent(gen), *options, **more)

        def _until_silent(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            heard = time.monotonic()
            try:
                wanted = next(gen)
                while True:
                    if ready := (yield wanted):  # psycopg resumes it ten times a second without anything ready
                        heard = time.monotonic()
                    limit = interrupts.HURRIED_SECONDS if self.is_hurried() else SILENCE_SECONDS
                    if time.monotonic() - heard > limit:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"the server sent nothing for {limit:g} seconds")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return Connection
