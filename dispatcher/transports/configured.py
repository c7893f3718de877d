"""The transports of a deployment, from its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dispatcher.clock import Clock
from dispatcher.settings import Settings
from dispatcher.transports.calls import OnRoomCall, unobserved
from dispatcher.transports.registry import transports
from dispatcher.transports.settings import TransportContext, TransportSettings
from dispatcher.transports.transport import Transport
from dispatcher.transports.turn import Turn

if TYPE_CHECKING:
    import httpx


def configured(
    settings: Settings,
    clock: Clock,
    http: httpx.AsyncBaseTransport | None,
    on_room_call: OnRoomCall,
) -> dict[str, Transport]:
    """Return name → transport.

    Args:
        http: Answers instead of the API of the rooms.
        on_room_call: Called after every call to it.
    """
    return {
        name: transport.build(context)
        for name, transport, context in _usable(settings, clock, http, on_room_call)
    }


async def check_accounts(settings: Settings, clock: Clock) -> str:
    """Return what is wrong with the transports' accounts; empty if nothing is, or they do not answer."""
    for _, transport, context in _usable(settings, clock, None, unobserved):
        if wrong := await transport.check_account(context):
            return wrong
    return ""


def _usable(
    settings: Settings, clock: Clock, http: httpx.AsyncBaseTransport | None, on_room_call: OnRoomCall
) -> Iterator[tuple[str, type[TransportSettings], TransportContext]]:
    turn = _turn(settings, clock)
    for name, transport in transports().importable().items():
        shared = settings.shared(name, transport.shared)
        if not transport.missing(shared):
            context = TransportContext(clock, shared, settings.ice_servers, turn, on_room_call, http)
            yield name, transport, context


def _turn(settings: Settings, clock: Clock) -> Turn | None:
    if settings.turn_secret is None:
        return None
    # From the request: the session may have to wait for a line first.
    agents = settings.agents.values()
    lifetime = max(agent.max_queue_seconds + agent.max_duration_seconds for agent in agents)
    return Turn(settings.turn_urls, settings.turn_secret.get_secret_value(), lifetime, clock)
