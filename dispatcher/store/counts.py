"""How many rows are live. Both queries read an index; neither grows with what is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from dispatcher.domain.model import LIVE
from dispatcher.store.tables import machines, sessions


@dataclass(frozen=True, slots=True)
class Counts:
    """(agent, state) → live sessions, and (placement, state) → machines that are not known to be gone.

    A machine that no placement was asked for yet has the placement ''.
    """

    sessions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    machines: Mapping[tuple[str, str], int] = field(default_factory=dict)


def count(connection: sa.Connection) -> Counts:
    return Counts(
        {(agent, state): number for agent, state, number in connection.execute(_live_sessions())},
        {(name or "", state): number for name, state, number in connection.execute(_live_machines())},
    )


def _live_sessions() -> sa.Select[str, str, int]:
    return (
        sa.select(sessions.c.agent, sessions.c.state, sa.func.count())
        .where(sessions.c.state.in_(LIVE))
        .group_by(sessions.c.agent, sessions.c.state)
    )


def _live_machines() -> sa.Select[str | None, str, int]:
    return (
        sa.select(machines.c.placement, machines.c.state, sa.func.count())
        .where(machines.c.gone_at.is_(None))
        .group_by(machines.c.placement, machines.c.state)
    )
