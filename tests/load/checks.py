"""Checks of a store and of the processes, during the load and after it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from dispatcher.domain.model import ADMITTED, LIVE, OVER
from dispatcher.domain.timeline import ENDS
from dispatcher.store.tables import claims, events, loads, machines, sessions
from tests.load.callers import Book
from tests.load.dispatchers import Dispatcher

SAMPLE_SECONDS = 0.1
SETTLE_SECONDS = 45.0
"""More than any deadline of a session here, with what its machine gets to go."""

Rows = list[dict[str, Any]]

ORDER = ("queued", "starting", "ready", "active", "ended", "failed")


@dataclass
class Store:
    """A look at the store that no dispatcher knows of."""

    url: str | sa.URL
    _engine: sa.Engine | None = None

    def rows(self, *tables: sa.Table) -> list[Rows]:
        """These tables as they are at one moment."""
        if self._engine is None:
            self._engine = sa.create_engine(self.url, poolclass=sa.pool.NullPool)
        with self._engine.connect() as connection:
            if self._engine.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            else:
                connection.exec_driver_sql("BEGIN")
            return [
                [dict(row) for row in connection.execute(sa.select(table)).mappings()] for table in tables
            ]


@dataclass
class Limits:
    """Samples taken during the load: sessions with a slot, living bots, and the count of slots."""

    store: Store
    bots: Callable[[], set[str]]
    """Gives the machines whose bot lives, by the process table."""
    agents: Mapping[str, int]
    deployment: int
    samples: int = 0
    most: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(OperationalError):  # there is no table yet, or the store is down
                await asyncio.to_thread(self.sample)
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> None:
        bots = self.bots()
        rows, counted = self.store.rows(sessions, loads)
        self.samples += 1
        live = Counter(
            row["agent"] for row in rows if row["state"] in ADMITTED or row["line_until"] is not None
        )
        # Who was asked for the bots first finds each one's session in the rows.
        alive = Counter(row["agent"] for row in rows if row["machine_id"] in bots)
        self.most |= live
        self.most |= Counter({"": live.total()})
        for agent, limit in {**self.agents, "": self.deployment}.items():
            for what, found in (("lines", live), ("bots", alive)):
                number = found[agent] if agent else found.total()
                if number > limit:
                    self.wrong.append(f"{agent or 'the deployment'} has {number} {what}; allowed are {limit}")
        for row in counted:
            agent = row["agent"]
            if agent and row["live"] != live[agent]:
                self.wrong.append(f"{agent} has {live[agent]} lines, and {row['live']} are counted")


def check_rows(store: Store, book: Book, reasons: frozenset[str]) -> Counter[str]:
    """After the load: every session is over for a reason that can be, and its past is consistent.

    Gives how many sessions ended for which reason.
    """
    rows, owned, written, kept = store.rows(sessions, machines, events, claims)
    # Keys and sessions belong together, one to one.
    assert sorted(claim["session_id"] for claim in kept) == sorted(row["id"] for row in rows)
    assert {key: ids for key, ids in book.sessions.items() if len(ids) != 1} == {}
    told = {session_id for ids in book.sessions.values() for session_id in ids}
    assert told <= {row["id"] for row in rows}

    machine_of = {machine["session_id"]: machine for machine in owned}
    timelines: dict[str, Rows] = {row["id"]: [] for row in rows}
    for event in sorted(written, key=lambda event: event["number"]):
        timelines[event["session_id"]].append(event)
    wrong = [
        f"{problem}: {row}\n  {machine_of[row['id']]}\n  "
        + "\n  ".join(f"{e['number']} {e['at']:.3f} {e['kind']} {e['state']} {e['actor']}" for e in timeline)
        for row in rows
        for timeline in (timelines[row["id"]],)
        for problem in _problems(row, machine_of[row["id"]], timeline, reasons)
    ]
    assert not wrong, "\n".join(wrong[:5])
    return Counter(row["reason"] for row in rows)


def _problems(
    row: dict[str, Any],
    machine: dict[str, Any],
    timeline: Rows,
    reasons: frozenset[str],
) -> list[str]:
    kinds = [event["kind"] for event in timeline]
    states = [ORDER.index(event["state"]) for event in timeline]
    own = [kind for kind in kinds if kind not in ("machine-gone", "orphan-stopped")]
    checks: dict[str, bool] = {
        "it is not over": row["state"] in OVER,
        f"it ended for a reason that cannot be: {row['reason']}": row["reason"] in reasons,
        "its machine is not gone": machine["state"] == "gone",
        "its machine is another": machine["id"] == row["machine_id"],
        "its events are not numbered": [event["number"] for event in timeline]
        == list(range(1, len(timeline) + 1)),
        "it does not begin with being asked for": kinds[:1] == ["queued"],
        "it does not end once, as the last thing that it does": sum(kind in ENDS for kind in own) == 1
        and own[-1] in ENDS,
        "its machine does not go once": kinds.count("machine-gone") == 1,
        "it went back to an earlier state": states == sorted(states),
        "something happened twice": all(
            kinds.count(kind) <= 1 for kind in ("queued", "starting", "machine-started", "ready", "active")
        ),
        "its times disagree with its events": all(
            (row[column] is not None) == (kind in kinds)
            for column, kind in (
                ("admitted_at", "starting"),
                ("started_at", "machine-started"),
                ("ready_at", "ready"),
                ("active_at", "active"),
            )
        ),
    }
    return [problem for problem, holds in checks.items() if not holds]


def check_births(dispatcher: Dispatcher) -> int:
    """No machine was ever two; gives how many there were."""
    born = Counter(entry.name.partition(".")[0] for entry in dispatcher.births.iterdir())
    assert {machine: times for machine, times in born.items() if times != 1} == {}
    return len(born)


def live_ids(store: Store) -> set[str]:
    """The sessions that are not over, and the machines that are not gone."""
    rows, owned = store.rows(sessions, machines)
    return {row["id"] for row in rows if row["state"] in LIVE} | {
        row["id"] for row in owned if row["state"] != "gone"
    }


async def settle(holds: Callable[[], bool], what: str, seconds: float = SETTLE_SECONDS) -> None:
    """Wait until it holds.

    Raises:
        AssertionError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.2)
