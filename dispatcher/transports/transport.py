"""The contract of a transport: what it opens for a session, and what the client is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Opened:
    """What a transport opened."""

    client: dict[str, Any] = field(default_factory=dict)
    """The fields of the start answer that this transport's clients read."""
    ice_servers: tuple[dict[str, Any], ...] = ()
    """The STUN and TURN servers that the bot uses."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the start request said to its transport."""

    enable_default_ice_servers: bool = False


class Transport(Protocol):
    """One way for audio to travel."""

    ready_needs_client: bool
    """Whether the bot can be ready only after its client has acted on the start answer, so that the answer
    cannot wait for it."""

    async def open(self, session_id: str, wanted: Wanted) -> Opened:
        """Open what the session needs. Called once per session, before its machine is asked for."""
        ...
