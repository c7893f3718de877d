"""The errors of a session's room: a closed set, because callers act on the kind.

    RoomError
    ├── TooManyCalls    the same call may go through after `retry_after` seconds
    ├── NoAnswer        nothing is known: the call may have worked
    └── Refused         permanent: the request, or the deployment, is wrong

Each text is for the person who reads the log or the session's detail: it never has a key or a token in it.
"""

from __future__ import annotations


class RoomError(Exception):
    """A call about a room failed.

    Attributes:
        nowhere: Whether it is certain that this call made no room.
    """

    nowhere = False


class TooManyCalls(RoomError):
    """`retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float, *, nowhere: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.nowhere = nowhere


class NoAnswer(RoomError):
    """There was no readable answer: the call may have worked or not."""


class Refused(RoomError):
    """Permanent: repeating the same call cannot help.

    Attributes:
        caller_fault: A sentence for the caller where the start request is at fault; not the service's words.
    """

    def __init__(self, message: str, *, nowhere: bool = False, caller_fault: str = "") -> None:
        super().__init__(message)
        self.nowhere = nowhere
        self.caller_fault = caller_fault


class Unacceptable(Exception):
    """A start request asks its transport for something that nobody may have; the text names what is
    allowed."""
