"""The providers and transports of a deployment, built from its settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dispatcher.clock import Clock
from dispatcher.machines.provider import MachineProvider
from dispatcher.machines.settings import MachineEvents, ProviderContext
from dispatcher.settings import Settings, is_loopback
from dispatcher.transports.calls import OnRoomCall, unobserved
from dispatcher.transports.registry import transports
from dispatcher.transports.settings import RoomEvents, TransportContext, TransportSettings, Webhook
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
    # From the request: the session may have to wait for a slot first.
    agents = settings.agents.values()
    lifetime = max(agent.max_queue_seconds + agent.max_duration_seconds for agent in agents)
    return Turn(settings.turn_urls, settings.turn_secret.get_secret_value(), lifetime, clock)


def webhooks_of(settings: Settings, clock: Clock) -> dict[str, tuple[Webhook, RoomEvents | None]]:
    """Return transport → its webhooks and what reads them, of those that can have any; None: none are
    taken."""
    return {
        name: (transport.webhook, transport.events(settings.shared(name, transport.shared), clock))
        for name, transport in transports().importable().items()
        if transport.webhook is not None
    }


def providers_of(settings: Settings, clock: Clock) -> dict[str, MachineProvider]:
    """Return placement → provider."""
    return {
        name: placement.build(context_of(settings, name, clock))
        for name, placement in settings.placements.items()
    }


def context_of(settings: Settings, name: str, clock: Clock) -> ProviderContext:
    """Return the context from which a placement's provider is built."""
    return ProviderContext(
        clock=clock,
        shared=settings.shared_of(settings.placements[name]),
        data_dir=settings.data_dir,
        private=_private(settings),
        keep_machine_dirs=settings.keep_machine_dirs,
        has_remote_callers=bool(settings.keys)
        and (bool(settings.allowed_hosts) or not is_loopback(settings.host)),
        placement=name,
    )


def _private(settings: Settings) -> list[Path]:
    """Return the paths that no machine may read: the data directory, and a SQLite store's files elsewhere."""
    url = sa.make_url(settings.store_url)
    database = url.database if url.get_backend_name() == "sqlite" else None
    files = [Path(f"{database}{end}") for end in ("", "-wal", "-shm", "-journal")] if database else []
    return [settings.data_dir, *files]


def events_of(settings: Settings, clock: Clock) -> dict[str, MachineEvents]:
    """Return machine provider → the reader of its events, of those that send some."""
    kinds = {placement.provider: placement for placement in settings.placements.values()}
    made = {name: of.events(settings.shared_of(of), clock) for name, of in kinds.items()}
    return {name: events for name, events in made.items() if events is not None}
