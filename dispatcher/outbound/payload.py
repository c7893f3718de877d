"""The body of a webhook, from the session's row. It says what was so at the event, whenever it is sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from dispatcher.domain.model import Session
from dispatcher.domain.outgoing import Outgoing


def body_of(message: Outgoing, session: Session) -> bytes:
    """Return the body: JSON with `type`, `timestamp` (of the event) and `data`."""
    data: dict[str, Any] = {
        "sessionId": session.id,
        "agent": session.agent,
        "transport": session.transport,
        "createdAt": _time(session.created_at),
    }
    if message.type != "session.started":
        data["readyAt"] = _time(session.ready_at)
    if message.type in ("session.ended", "session.failed"):
        data |= {
            "endedAt": _time(session.ended_at),
            "durationSeconds": _seconds(session.ready_at, session.ended_at),
            "machineSeconds": _seconds(session.started_at, session.ended_at),
            "reason": session.reason,
            "message": session.message,
        }
    found = {"type": message.type, "timestamp": _time(message.at), "data": data}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _time(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(since: float | None, until: float | None) -> float | None:
    return None if since is None or until is None else round(max(until - since, 0.0), 3)
