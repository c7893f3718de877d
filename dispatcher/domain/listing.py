"""Lists of sessions: their filters and their pages, newest first."""

from __future__ import annotations

import base64
import binascii
import json
import math
import uuid
from dataclasses import dataclass

from dispatcher.domain.errors import InvalidRequest
from dispatcher.domain.model import Session, SessionState

MAX_CURSOR_LENGTH = 200
"""Limit on a cursor: real ones have about 90 characters; longer JSON may be nested too deep for its
parser."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on listed sessions; None and empty set no condition. Times are Unix seconds."""

    agent: str | None = None
    states: tuple[SessionState, ...] = ()
    created_from: float | None = None
    created_until: float | None = None
    ready_after_at_least: float | None = None
    """Least time from the start request until the bot was ready."""
    ready_after_at_most: float | None = None
    reasons: tuple[str, ...] = ()
    """Reasons of its end. Every session that passes the other filters is scanned."""
    other_reasons: tuple[str, ...] = ()
    """Excluded reasons: its end has a reason, and none of these."""
    agents: frozenset[str] = frozenset()
    """The agents whose sessions the caller may see."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last session of a page; the next page begins after it, however many sessions came meanwhile."""

    created_at: float
    id: str

    @classmethod
    def behind(cls, session: Session) -> Cursor:
        return cls(session.created_at, session.id)

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([self.created_at, self.id]).encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Parse the text that `str` gives.

        Raises:
            InvalidRequest: it is not such a text.
        """
        try:
            if len(text) > MAX_CURSOR_LENGTH:
                raise ValueError("too long")
            padded = text + "=" * (-len(text) % 4)
            created_at, session_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            if not isinstance(created_at, float) or not math.isfinite(created_at):
                raise ValueError("not a time")
            if not isinstance(session_id, str) or str(uuid.UUID(session_id)) != session_id:
                raise ValueError("not an id")
        except (ValueError, TypeError, binascii.Error) as error:
            message = "cursor: allowed is the nextCursor of an earlier answer"
            raise InvalidRequest(f"{message}, not '{text[:80]}'.") from error
        return cls(created_at, session_id)
