"""Retention: deletes expired keys, messages that were read, sessions that were over long ago."""

from __future__ import annotations

from dispatcher.clock import Clock
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.store.store import Store

EVERY_SECONDS = 60.0
CLAIMS = MESSAGES = 500
SESSIONS = 100
"""Rows of one delete, a session with its machine and its timeline of some ten events: a long delete
would hold up every start on SQLite, which has one writer."""

DAY_SECONDS = 24 * 3600.0


class Retention:
    """Deletes what is older than it must be kept.

    Args:
        keep_sessions_days: How long a session is kept after its end.
    """

    def __init__(
        self, *, store: Store, leadership: Leadership, clock: Clock, keep_sessions_days: float
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._kept_seconds = keep_sessions_days * DAY_SECONDS
        self._done_at = clock.monotonic()

    async def clean(self) -> None:
        """Delete a batch of each, when that is due. A full batch leaves the rest to the next call."""
        now, began_at = self._clock.now(), self._clock.monotonic()
        if began_at - self._done_at < EVERY_SECONDS:
            return
        claims = await self._store.delete_expired_claims(now, CLAIMS)
        sessions = await self._store.delete_old_sessions(now - self._kept_seconds, SESSIONS)
        messages = await self._store.delete_old_messages(now, MESSAGES)
        await self._leadership.forget_dead()
        if claims < CLAIMS and sessions < SESSIONS and messages < MESSAGES:
            self._done_at = began_at
