"""Errors of requests for a session.

    SessionError
    ├── InvalidRequest       400  the request names something that is not on offer
    │   └── UnknownAgent     404  no agent of that name
    ├── UnknownSession       404  no session of that id
    ├── SessionOver          410  the session had ended before the bot answered, or before the request came
    ├── KeyReused            422  the Idempotency-Key stands for another request
    ├── RateExceeded         429  the caller's key starts sessions too fast; retry helps
    ├── AtCapacity           429  the agent has all the sessions that it may have; retry helps
    ├── TooManyCalls         429  too many calls wait for their bots; retry helps
    ├── StartFailed          502  the machine or the bot failed before the request could be served
    ├── NotStarted           503  the provider has no machine now; retry helps
    ├── DiskFull             503  the dispatcher's disk has no room; retry helps once it has
    ├── NoImage              503  the agent's image is not known yet; retry helps once a stack has said it
    ├── Restarting           503  the dispatcher is about to exit; retry reaches the next one
    └── TookTooLong          504  no answer from the bot in time

Each carries the sentence that a person reads (`str`), a stable code, and after how many seconds a retry
can help, if it can.
"""

from __future__ import annotations


class SessionError(Exception):
    """A request for a session that could not be served."""

    status = 500
    code = "internal"
    retry_after: float | None = None

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if retry_after is not None:
            self.retry_after = retry_after


class InvalidRequest(SessionError):
    status = 400
    code = "400"


class UnknownAgent(InvalidRequest):
    status = 404
    code = "404"


class UnknownSession(SessionError):
    status = 404
    code = "404"

    @classmethod
    def of(cls, session_id: str, agent: str | None = None) -> UnknownSession:
        """Return the error for an id that is unknown, of another agent, or not the caller's."""
        of_agent = f" of {agent}" if agent else ""
        return cls(f"There is no session {session_id}{of_agent}.")


class SessionOver(SessionError):
    status = 410
    code = "session_over"


class KeyReused(SessionError):
    status = 422
    code = "idempotency_key_reused"


class RateExceeded(SessionError):
    status = 429
    code = "429"


class AtCapacity(SessionError):
    status = 429
    code = "PCC-AGENT-AT-CAPACITY"
    retry_after = 5.0


class TooManyCalls(SessionError):
    status = 429
    code = "too_many_calls"
    retry_after = 2.0


class StartFailed(SessionError):
    status = 502
    code = "start_failed"


class NotStarted(SessionError):
    status = 503
    code = "no_capacity"
    retry_after = 5.0


class DiskFull(SessionError):
    status = 503
    code = "disk_full"
    retry_after = 30.0


class NoImage(SessionError):
    status = 503
    code = "no_images"
    retry_after = 5.0


class Restarting(SessionError):
    status = 503
    code = "draining"
    retry_after = 2.0

    def __init__(self) -> None:
        super().__init__("The dispatcher is restarting; please try again in a moment.")


class TookTooLong(SessionError):
    status = 504
    code = "timeout"
