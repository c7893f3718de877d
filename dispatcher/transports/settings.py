"""The settings that a transport declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from dispatcher.plugins import Plugin, SharedSettings

if TYPE_CHECKING:
    import httpx

    from dispatcher.clock import Clock
    from dispatcher.transports.calls import OnRoomCall
    from dispatcher.transports.transport import Transport
    from dispatcher.transports.turn import Turn


class IceServer(BaseModel):
    """A STUN or TURN server, in the shape of a browser's RTCIceServer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


@dataclass(frozen=True)
class TransportContext:
    """Context from which a transport is built."""

    clock: Clock
    shared: SharedSettings
    """The transport's settings, as the class that it declares."""
    ice_servers: Sequence[IceServer]
    """The STUN and TURN servers of this deployment, for bots and for clients."""
    turn: Turn | None
    """The TURN servers with which this deployment shares a secret."""
    on_room_call: OnRoomCall
    """Called after every call to the API of the rooms."""
    http: httpx.AsyncBaseTransport | None = None
    """Answers instead of that API, in tests."""


class Forged(Exception):
    """A message is not of the service that has the rooms, or too old. The text says why, for the person who
    set it up."""


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """An event in the room of a session."""

    session_id: str
    message: str
    """A sentence for people."""
    is_end: bool
    """True if nobody is in the room any more."""


class RoomEvents(Protocol):
    """Reads events that the service with the rooms sends to the dispatcher. They are hints."""

    def read(self, body: bytes, headers: Mapping[str, str]) -> RoomEvent | None:
        """Return the event of a message; None for one that is a repetition, or not about a session here.

        Raises:
            Forged: the message is not of that service, or too old.
        """
        ...


@dataclass(frozen=True)
class Webhook:
    """Description of a service's webhooks, for the API."""

    service: str
    """Its name in the possessive."""
    headers: tuple[str, ...]
    """Headers by which a message is authenticated."""
    needs: str
    """The setting without which none are taken."""


class TransportSettings(Plugin):
    """A transport. Its entry point names a class that derives from this one."""

    webhook: ClassVar[Webhook | None] = None
    """Its webhooks, if it can have any. They are taken at `/webhooks/<name of the transport>`."""

    @classmethod
    def check(cls, shared: SharedSettings) -> None:
        """Check the settings as a whole.

        Raises:
            ValueError: They cannot be; the text begins with the setting's name.
        """

    @classmethod
    def missing(cls, shared: SharedSettings) -> str:
        """Return the names of the settings without which no agent can offer it; empty if it can be built."""
        return ""

    @classmethod
    def build(cls, context: TransportContext) -> Transport:
        """Build the transport. Nothing is called and nothing is opened; import client libraries here."""
        raise NotImplementedError

    @classmethod
    def events(cls, shared: SharedSettings, clock: Clock) -> RoomEvents | None:
        """Build what reads the webhooks; None if none are taken."""
        return None

    @classmethod
    async def check_account(cls, context: TransportContext) -> str:
        """Return what is wrong with the account; empty if nothing is, or it does not answer."""
        return ""
