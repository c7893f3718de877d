"""The contract of a transport: what a session needs of it, and what the client is told.

`prepare` comes before the session's row and makes nothing that would have to be undone. What has to be made
elsewhere for the session, a room, is made and deleted later, by transports that satisfy `HasRooms`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Room:
    """A room that a session is going to have. It is kept with the session, as JSON."""

    url: str
    token: str = field(repr=False)
    """The bot's: good for this room alone."""
    properties: dict[str, Any] = field(default_factory=dict)
    """The start request's wishes for it, accepted by `check`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A session's transport, as far as it is known before there is anything."""

    client: dict[str, Any] = field(default_factory=dict)
    """The fields of the start answer that this transport's clients read."""
    ice_servers: tuple[dict[str, Any], ...] = ()
    """The STUN and TURN servers that the bot uses."""
    room: Room | None = None
    """The room to be opened once there is a slot for the session."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The start request's words to its transport."""

    enable_default_ice_servers: bool = False
    room: Mapping[str, Any] = field(default_factory=dict)
    """Properties of the room."""
    token: Mapping[str, Any] = field(default_factory=dict)
    """Properties of the client's token for it."""


class Transport(Protocol):
    """One way for audio to travel."""

    ready_needs_client: bool
    """True if the bot can be ready only after its client has acted on the start answer, so that the answer
    cannot wait for it."""

    prepare_calls: bool
    """True if `prepare` asks others, who should not be troubled for a start that is refused anyway."""

    def check(self, wanted: Wanted, allowed: Collection[str] = ()) -> None:
        """Look at what the start request says.

        Args:
            allowed: What the agent's operator allows beyond what anybody may ask for.

        Raises:
            Unacceptable: it asks for what nobody may have.
        """
        ...

    async def prepare(self, session_id: str, wanted: Wanted, until: float, deadline: float) -> Prepared:
        """Return what the session and its client need, once per session; make nothing that would have to be
        undone.

        Args:
            until: The latest moment at which the session can live (unix seconds).
            deadline: Until when calls may be made for it (unix seconds).

        Raises:
            RoomError: a call that it takes did not go through.
        """
        ...


@runtime_checkable
class HasRooms(Protocol):
    """A transport whose sessions meet in rooms of somebody else's."""

    async def open_room(
        self,
        session_id: str,
        room: Room,
        until: float,
        deadline: float,
        confirm: Callable[[], Awaitable[None]],
    ) -> bool:
        """Make the session's room, or find it where it was made before.

        Args:
            until: When the room is to close by itself (unix seconds), with whoever is in it.
            deadline: Nobody is being asked any more when it has passed (unix seconds).
            confirm: Called before each call that makes the room, and while none is answered; what it raises
                ends this one.

        Returns:
            Whether every call that makes it was answered: else one may still come through, for
            `ROOM_SETTLING_SECONDS`.

        Raises:
            RoomError: there is none that the session could use.
        """
        ...

    async def close_room(self, session_id: str, deadline: float) -> None:
        """Delete the session's room, if it is there.

        Raises:
            RoomError: it may still be there.
        """
        ...

    async def run(self) -> None:
        """Check what the rooms come from, until it is known to be right, or cancelled."""
        ...

    async def close(self) -> None:
        """Let go of connections. Rooms are not touched."""
        ...
