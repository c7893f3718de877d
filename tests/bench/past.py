"""Stores with a past: sessions that live or are over, written in bulk."""

from __future__ import annotations

import time
import uuid

import sqlalchemy as sa

from dispatcher.settings import STORES
from dispatcher.store.store import Store
from dispatcher.store.tables import events, loads, machines, sessions

BATCH = 10_000


async def fill(database: str, live: int, past: int) -> None:
    """Make the database, with so many sessions of the agent `echo` in it."""
    assert database.startswith(STORES), database
    store = Store(database)
    await store.open()
    await store.close()
    engine = sa.create_engine(database)
    now = time.time()
    for state, count in (("active", live), ("ended", past)):
        for begin in range(0, count, BATCH):
            numbers = range(begin, min(begin + BATCH, count))
            _write(engine, state, now, [(str(uuid.uuid4()), number / max(count, 1)) for number in numbers])
    with engine.begin() as connection:
        connection.execute(sa.insert(loads).values(agent="echo", live=live, queued=0))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    engine.dispose()


def _write(engine: sa.Engine, state: str, now: float, ids: list[tuple[str, float]]) -> None:
    day = 86_400.0
    rows = []
    for session_id, share in ids:
        # Past ones over the last ten days, live ones over the last minutes.
        begun = now - (10 * day * (1 - share) + 600 if state == "ended" else 300)
        rows.append((session_id, begun, begun + 180 if state == "ended" else None))
    with engine.begin() as connection:
        connection.execute(sa.insert(machines), [_machine(*row) for row in rows])
        connection.execute(sa.insert(sessions), [_session(*row) for row in rows])
        connection.execute(sa.insert(events), [event for row in rows for event in _events(*row)])


def _machine(session_id: str, begun: float, ended: float | None) -> dict[str, object]:
    return {
        "id": f"m-{session_id}",
        "session_id": session_id,
        "provider": "instant",
        "placement": "process",
        "state": "gone" if ended else "started",
        "created_at": begun,
        "create_by": begun + 27,
        "gone_at": ended,
        "versions": {},
    }


def _session(session_id: str, begun: float, ended: float | None) -> dict[str, object]:
    return {
        "id": session_id,
        "agent": "echo",
        "transport": "webrtc",
        "ice_servers": [],
        "machine_id": f"m-{session_id}",
        "state": "ended" if ended else "active",
        "phase": "active",
        "start_timeout_seconds": 30.0,
        "client_timeout_seconds": 60.0,
        "max_duration_seconds": 7200.0,
        "idle_timeout_seconds": 300.0,
        "created_at": begun,
        "admitted_at": begun,
        "started_at": begun + 0.1,
        "waiting_at": begun + 0.5,
        "ready_at": begun + 0.8,
        "active_at": begun + 0.8,
        "ended_at": ended,
        # While it is active, its longest duration is what the reaper waits for.
        "due_at": None if ended else begun + 7200,
        "reason": "completed" if ended else None,
        "message": "The bot ended the conversation." if ended else None,
        "timings": {"process": 0.1, "imported": 0.4},
        "turns_ms": [900.0, 850.0, 1100.0],
    }


def _events(session_id: str, begun: float, ended: float | None) -> list[dict[str, object]]:
    kinds = ["queued", "ended", "machine-gone"] if ended else ["queued", "starting", "active"]
    return [
        {
            "session_id": session_id,
            "number": number,
            "at": begun + number / 10,
            "kind": kind,
            "actor": "dispatcher",
            "state": "ended" if ended else "active",
            "message": f"What happened: {kind}.",
        }
        for number, kind in enumerate(kinds, 1)
    ]
