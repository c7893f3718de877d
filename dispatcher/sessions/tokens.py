"""The sessions' tokens: all that a client needs for its session, without the key that started it."""

from __future__ import annotations

from dispatcher.domain.model import Session
from dispatcher.signing import Signer

AUDIENCE = "switchboard-session"


class SessionTokens:
    """Issues and checks the sessions' tokens."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def issue(self, session: Session) -> str:
        """The session's token, good until its latest possible deadline; for one session always the same."""
        longest = session.queue_seconds + session.max_duration_seconds
        return self._signer.sign(session.id, AUDIENCE, session.created_at + longest)

    def session_id(self, token: str) -> str:
        """The session that the token was issued for.

        Raises:
            InvalidToken: it was not issued by us for a session, or has expired.
        """
        return self._signer.subject(token, AUDIENCE)
