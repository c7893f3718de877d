"""A session and its machine as they are before anything has happened to them."""

from __future__ import annotations

import uuid
from typing import Any

from dispatcher.domain.model import Machine, MachineState, Session, SessionState


def rows(
    session_id: str | None = None, *, at: float = 1000.0, provider: str = "process", **more: Any
) -> tuple[Session, Machine]:
    """
    Args:
        session_id: By default a new one.
        at: When they were made, in unix seconds.
        more: Of the session.
    """
    session_id = session_id or str(uuid.uuid4())
    machine = Machine(f"m-{session_id}", session_id, provider, MachineState.requested, at)
    usual: dict[str, Any] = {
        "agent": "echo",
        "body": None,
        "start_timeout_seconds": 30.0,
        "client_timeout_seconds": 60.0,
        "max_duration_seconds": 7200.0,
    }
    session = Session(
        id=session_id,
        transport="webrtc",
        ice_servers=[],
        machine_id=machine.id,
        state=SessionState.queued,
        created_at=at,
        **{**usual, **more},
    )
    return session, machine
