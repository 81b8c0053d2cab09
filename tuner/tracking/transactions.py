"""Several calls of MLflow's client in one transaction of its database.

Each call would open up to six sessions, most of which commit: a trial would take 18 sessions and nine commits.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mlflow import MlflowClient
from sqlalchemy import Connection, RootTransaction
from sqlalchemy.orm import Session

__all__ = ["Transactions"]

SessionMaker = Callable[..., AbstractContextManager[Session]]


class Transactions:
    """Replaces the function of MLflow's store that opens a session.

    Args:
        make: The function, which MLflow calls with `read_only` for each of its sessions.
    """

    def __init__(self, make: SessionMaker) -> None:
        self._make = make
        self._of_thread = threading.local()

    @classmethod
    def of(cls, client: MlflowClient) -> "Transactions | None":
        """Return the transactions of a client's store; None if it is a server, or MLflow opens sessions otherwise."""
        store: Any = client._tracking_client.store
        if not hasattr(store, "ManagedSessionMaker"):
            return None
        if not isinstance(store.ManagedSessionMaker, cls):
            store.ManagedSessionMaker = cls(store.ManagedSessionMaker)
        found: Transactions = store.ManagedSessionMaker
        return found

    def __call__(self, read_only: bool = True) -> AbstractContextManager[Session]:
        """Return a session, as MLflow does; within `one`, a part of the transaction.

        Raises:
            RuntimeError: If a part has failed, so that nothing else may be committed.
        """
        transaction: RootTransaction | None = getattr(self._of_thread, "transaction", None)
        if transaction is None:
            return self._make(read_only=read_only)
        if not transaction.is_active:
            raise RuntimeError("an earlier part of the transaction failed")
        return _part_of(transaction.connection)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Make the calls of this thread one transaction, which an error rolls back."""
        with self._make(read_only=False) as session:
            self._of_thread.transaction = session.connection().get_transaction()
            try:
                yield
            except BaseException:
                session.close()  # rolls back, unless a part has done so
                raise
            finally:
                self._of_thread.transaction = None


class _Part(Session):
    """A session within a transaction, which cannot be rolled back in part: MLflow would commit the rest."""

    def rollback(self) -> None:
        raise RuntimeError("part of a transaction failed")


@contextmanager
def _part_of(connection: Connection) -> Iterator[Session]:
    with _Part(connection, join_transaction_mode="rollback_only") as session:  # its commits leave the transaction open
        yield session
        session.commit()
