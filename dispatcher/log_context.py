"""Log context: bound where work on a session begins, and inherited by its tasks.

So each log line and each call to a machines API carries the ids without being passed them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispatcher.domain.model import Session

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Subject:
    """Ids that the running work concerns; None for those that do not apply."""

    session_id: str | None = None
    machine_id: str | None = None
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        return None if self.traceparent is None else self.traceparent.split("-")[1]


_subject: ContextVar[Subject] = ContextVar("switchboard_subject", default=Subject())  # noqa: B039 - it is frozen


def current() -> Subject:
    """Return the log context of the running code."""
    return _subject.get()


@contextlib.contextmanager
def about(
    *, session_id: str | None = None, machine_id: str | None = None, traceparent: str | None = None
) -> Iterator[None]:
    """Bind ids for the block; those that are None keep their value."""
    given = {"session_id": session_id, "machine_id": machine_id, "traceparent": traceparent}
    known = {name: value for name, value in given.items() if value is not None}
    token = _subject.set(replace(_subject.get(), **known))
    try:
        yield
    finally:
        _subject.reset(token)


def about_session(session: Session) -> contextlib.AbstractContextManager[None]:
    """Bind all ids of a session."""
    return about(session_id=session.id, machine_id=session.machine_id, traceparent=session.traceparent)


def read_traceparent(header: str | None) -> str | None:
    """Return the parts of a `traceparent` header in version 00; None if it is malformed (W3C Trace Context,
    3.2).

    The specification says to ignore a malformed one: a caller's faulty trace must not fail a start.
    """
    text = (header or "").strip()
    known, more = text[:55], text[55:]
    if not _TRACEPARENT.fullmatch(known):
        return None
    # A later version may have more fields, after another hyphen.
    if more and (known.startswith("00") or not more.startswith("-")):
        return None
    return f"00{known[2:]}"
