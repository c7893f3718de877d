"""Leases: the replicas that live, and the one that does what only one may do. One row for each.

A row tells no time. Its holder counts it up as long as it lives, and whoever sees that it stands still, on a
clock of its own, may take it: replicas' clocks need not agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from dispatcher.store import rows
from dispatcher.store.tables import leases


@dataclass(frozen=True, slots=True)
class Beat:
    """A row of `leases` as it was read."""

    holder: str
    count: int


def beat(
    connection: sa.Connection, replica: str, names: Collection[str], still: Mapping[str, Beat], alone: bool
) -> dict[str, Beat]:
    """Renew what this replica holds of these names, and take what nobody holds; gives all rows, by name.

    Args:
        still: Rows that have stood still for so long that they may be taken, unless they moved meanwhile.
        alone: Whether nobody else can live: what others have left is deleted first.
    """
    if alone:
        connection.execute(sa.delete(leases).where(leases.c.holder != replica))
    # In one order, so that two replicas never wait for each other.
    for name in sorted(names):
        _hold(connection, name, replica, still.get(name))
    found = connection.execute(sa.select(leases)).mappings()
    return {row["name"]: Beat(row["holder"], row["count"]) for row in found}


def release(connection: sa.Connection, replica: str) -> None:
    """Let go of everything that this replica holds."""
    connection.execute(sa.delete(leases).where(leases.c.holder == replica))


def forget(connection: sa.Connection, still: Mapping[str, Beat]) -> None:
    """Delete rows that stand still, unless they moved meanwhile."""
    for name, last in still.items():
        delete = sa.delete(leases).where(leases.c.name == name, leases.c.holder == last.holder)
        connection.execute(delete.where(leases.c.count == last.count))


def _hold(connection: sa.Connection, name: str, replica: str, still: Beat | None) -> None:
    query = sa.select(leases).where(leases.c.name == name).with_for_update()
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        # Another replica may be first; what is read afterwards tells.
        rows.add_unless_there(connection, leases, name=name, holder=replica, count=1)
    elif row["holder"] == replica or Beat(row["holder"], row["count"]) == still:
        update = sa.update(leases).where(leases.c.name == name)
        connection.execute(update.values(holder=replica, count=leases.c.count + 1))
