"""Limits on calls to bots that wait in memory, and of how many bytes: per session, per key and in all.

A call waits until its machine is there and has answered, which may take as long as a session's queue. Whoever
has a session's token can make as many as they like.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from bot.protocol import Request
from dispatcher.domain.errors import TooManyCalls

MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Most:
    """Limits on calls that are held at the same time."""

    calls: int
    bytes: int


OF_SESSION = Most(100, 16 * MB)
"""A client has one offer, its candidates and some calls of its own on the way; four files of the
largest size are 11 MB in base64."""

OF_KEY = Most(5000, 48 * MB)
"""Limit on all sessions that a key started. 200 starts a second whose bots take 10 s to be ready hold
2,000 offers of 5 kB; and most deployments have one key."""

IN_ALL = Most(10_000, 96 * MB)
"""A held call takes up to three times its bytes while it is sent, and a dispatcher's container has 1 GB."""


@dataclass(slots=True)
class _Held:
    calls: int = 0
    bytes: int = 0


@dataclass
class HeldCalls:
    """The calls of one dispatcher."""

    of_session: Most = OF_SESSION
    of_key: Most = OF_KEY
    in_all: Most = IN_ALL
    _held: dict[tuple[str, str], _Held] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Return the number of held calls."""
        return self._held.get(("", ""), _Held()).calls

    @property
    def bytes(self) -> int:
        """Return the bytes of held calls."""
        return self._held.get(("", ""), _Held()).bytes

    @contextlib.contextmanager
    def hold(self, session_id: str, owner: str | None, request: Request) -> Iterator[None]:
        """Count a call in until the block ends.

        Raises:
            TooManyCalls: its session, its key or the dispatcher has all that it may hold.
        """
        size = len(request.body) + len(request.query) + sum(len(n) + len(v) for n, v in request.headers)
        groups = (
            (("session", session_id), self.of_session, "This session"),
            (("key", owner or ""), self.of_key, "The key that started this session"),
            (("", ""), self.in_all, "The dispatcher"),
        )
        for group, most, whose in groups:
            held = self._held.get(group, _Held())
            if held.calls + 1 > most.calls or held.bytes + size > most.bytes:
                raise TooManyCalls(
                    f"{whose} has {held.calls} calls of {held.bytes} bytes that wait for their bots; allowed:"
                    f" {most.calls} calls of {most.bytes} bytes. Try again when some are answered."
                )
        for group, _, _ in groups:
            held = self._held.setdefault(group, _Held())
            held.calls += 1
            held.bytes += size
        try:
            yield
        finally:
            for group, _, _ in groups:
                held = self._held[group]
                held.calls -= 1
                held.bytes -= size
                if not held.calls:
                    del self._held[group]
