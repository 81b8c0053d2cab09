"""The rows of trials in Optuna's tables, as Optuna writes them."""

import functools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, bindparam

__all__ = ["Change", "row_of", "write_changes"]

TRIALS = models.TrialModel.__table__
PARAMS, VALUES = models.TrialParamModel.__table__, models.TrialValueModel.__table__
REPORTS = models.TrialIntermediateValueModel.__table__
ATTRIBUTES = {
    "user_attrs": models.TrialUserAttributeModel.__table__,
    "system_attrs": models.TrialSystemAttributeModel.__table__,
}


def row_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the columns of a trial in the table of trials, except its number and study."""
    start, complete = trial.datetime_start, trial.datetime_complete
    return {"state": trial.state, "datetime_start": _utc(start), "datetime_complete": _utc(complete)}


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


Change = tuple[int, FrozenTrial | None, FrozenTrial]
"""The id of a trial in the database, its stored version (None: only its row), and its new version."""


def write_changes(connection: Connection, changes: Sequence[Change]) -> None:
    """Write the differences of trials from the database."""
    _update(
        connection,
        TRIALS,
        ["trial_id"],
        [
            {"trial_id": row, **row_of(now)}
            for row, before, now in changes
            if before is not None and row_of(before) != row_of(now)
        ],
    )
    _put(connection, PARAMS, "param_name", changes, "params", _params)
    _put(connection, VALUES, "objective", changes, "values", _values)
    _put(connection, REPORTS, "step", changes, "intermediate_values", _reports)
    for kind, table in ATTRIBUTES.items():
        _put(connection, table, "key", changes, kind, functools.partial(_attributes, kind))


Content = dict[Any, dict[str, Any]]
"""The other columns of the rows of a trial in a table, by the column that tells its rows apart."""


def _params(trial: FrozenTrial) -> Content:
    return {
        name: {
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    }


def _values(trial: FrozenTrial) -> Content:
    stored = map(models.TrialValueModel.value_to_stored_repr, trial.values or ())
    return {index: {"value": value, "value_type": kind} for index, (value, kind) in enumerate(stored)}


def _reports(trial: FrozenTrial) -> Content:
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    return {
        step: dict(zip(("intermediate_value", "intermediate_value_type"), stored(value), strict=True))
        for step, value in trial.intermediate_values.items()
    }


def _attributes(kind: str, trial: FrozenTrial) -> Content:
    return {key: {"value_json": json.dumps(value)} for key, value in getattr(trial, kind).items()}


def _put(
    connection: Connection,
    table: sqlalchemy.Table,
    key: str,
    changes: Sequence[Change],
    field: str,
    content: Callable[[FrozenTrial], Content],
) -> None:
    """Insert and update the rows of a table that differ.

    Args:
        connection: The transaction.
        table: The table.
        key: The column that tells the rows of a trial apart.
        changes: The trials.
        field: What the table has of a trial.
        content: Returns the rows of a trial.
    """
    new, other = [], []
    for row, before, now in changes:
        if before is not None and getattr(before, field) is getattr(now, field):  # it is replaced when it changes
            continue
        stored = content(before) if before is not None else {}
        for name, columns in content(now).items():
            if name not in stored:
                new.append({"trial_id": row, key: name, **columns})
            elif columns != stored[name]:
                other.append({"trial_id": row, key: name, **columns})
    if new:
        connection.execute(table.insert(), new)
    _update(connection, table, ["trial_id", key], other)


def _update(
    connection: Connection, table: sqlalchemy.Table, keys: Sequence[str], rows: Sequence[dict[str, Any]]
) -> None:
    """Update the rows of a table that have the given values in some columns."""
    if rows:
        names = [name for name in rows[0] if name not in keys]
        where = [table.c[key] == bindparam(f"of_{key}") for key in keys]
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
        bound = [
            {**{f"of_{key}": row[key] for key in keys}, **{f"new_{name}": row[name] for name in names}} for row in rows
        ]
        connection.execute(table.update().where(*where).values(values), bound)
