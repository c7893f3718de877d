"""The composition root: builds a dispatcher from its settings, with its HTTP interface.

Only this file and core.py know every concrete class.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import BaseRoute

from dispatcher.api import (
    calls,
    events,
    lists,
    logs,
    machines,
    offers,
    openapi,
    operations,
    organizations,
    problems,
    replay,
    sessions,
    sockets,
    start,
    telephony,
    webhooks,
)
from dispatcher.api.auth import Gate, Keys, own_sessions_only
from dispatcher.bus import Bus, LocalBus, new_replica
from dispatcher.clock import Clock, SystemClock
from dispatcher.configured import events_of, providers_of, webhooks_of
from dispatcher.core import Core, wire
from dispatcher.machines.provider import MachineProvider
from dispatcher.machines.sockets import Sockets
from dispatcher.settings import Settings
from dispatcher.store.threads import Runner
from dispatcher.telemetry.requests import Subjects
from dispatcher.telephony.accounts import carriers_of

if TYPE_CHECKING:
    import httpx
    from opentelemetry.sdk.trace import TracerProvider


@dataclass(frozen=True)
class Dispatcher(Core):
    """A dispatcher with its HTTP interface; its background work runs while the app is served."""

    app: FastAPI


def build(
    settings: Settings,
    *,
    clock: Clock | None = None,
    providers: Mapping[str, MachineProvider] | None = None,
    environment: Mapping[str, str] = os.environ,
    tracer_provider: TracerProvider | None = None,
    runner: Runner | None = None,
    rooms_api: httpx.AsyncBaseTransport | None = None,
) -> Dispatcher:
    """Build a dispatcher. Nothing runs and nothing is opened until its app starts.

    Args:
        providers: Placement → provider, instead of those that the settings name.
        tracer_provider: Receives the spans, instead of the exporter that the `OTEL_…` variables name.
        runner: Runs the store's transactions, instead of threads.
        rooms_api: Answers instead of the API of the rooms.
    """
    clock = clock or SystemClock()
    core = wire(
        settings,
        clock=clock,
        providers=providers or providers_of(settings, clock),
        bus=_bus(settings, clock),
        environment=environment,
        tracer_provider=tracer_provider,
        runner=runner,
        rooms_api=rooms_api,
    )
    parts = {part.name: getattr(core, part.name) for part in fields(core)}
    return Dispatcher(**parts, app=_app(core))


def _app(core: Core) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with core.running():
            yield

    app = FastAPI(
        title="Switchboard dispatcher",
        docs_url=None,
        redoc_url=None,
        # A path with an extra slash is unknown: a problem, not a 307 without a body.
        redirect_slashes=False,
        lifespan=lifespan,
        # An included router's routes would be built a second time, at the first request: 50 ms for all.
        routes=_routes(core),
    )
    openapi.install(app)
    keys = Keys(core.settings.keys, core.session_tokens, core.clock, core.settings.allowed_origins)
    app.add_middleware(Gate, settings=core.settings, keys=keys, default_agent=core.service.default_agent)
    app.add_middleware(Subjects)
    problems.install(app)
    operations.mount_page(app)
    return app


def _routes(core: Core) -> list[BaseRoute]:
    settings, service = core.settings, core.service
    starter = start.Starter(core.starts, service, settings.max_start_body_bytes, core.metrics.refused)
    # The channel, health and agents come before the session proxy, which takes any path below a session.
    anyone = APIRouter(responses=openapi.problems(*openapi.ANYWHERE))
    machines.add_routes(anyone, core.machine_reports, core.tokens)
    meetings = Sockets(core.clock)
    sockets.add_routes(anyone, meetings, service, core.store, core.tokens, core.session_tokens)
    calls.add_routes(anyone, meetings, service, core.session_tokens, core.clock)
    operations.add_routes(anyone, service, core.readiness, core.scrape)
    start.add_routes(anyone, service, starter, core.session_tokens, core.traces)
    offers.add_routes(anyone, service, starter, core.traces)
    carriers = carriers_of(settings.phone, settings.phone_secrets)
    phones = telephony.Phones(carriers, service, core.store, core.clock, settings.public_url)
    telephony.add_routes(anyone, phones, starter, core.session_tokens, core.traces)
    hooks, events_ = webhooks_of(settings, core.clock), events_of(settings, core.clock)
    webhooks.add_routes(anyone, hooks, events_, core.hints)
    replay.add_routes(anyone, core.webhooks)
    owner = APIRouter(responses=anyone.responses, dependencies=[Depends(own_sessions_only(service))])
    events.add_routes(owner, core.watch)
    logs.add_routes(owner, core.store, core.fleet)
    lists.add_routes(owner, service, core.store)
    organizations.add_routes(owner, service, core.store, core.fleet, core.clock)
    sessions.add_routes(owner, service)
    return [*anyone.routes, *owner.routes]


def _bus(settings: Settings, clock: Clock) -> Bus:
    """Return the bus to the other replicas: a real one if several replicas can share the store."""
    replica = new_replica()
    if sa.make_url(settings.store_url).get_backend_name() == "postgresql":
        # Imported here: its driver takes a tenth of the time of all imports.
        from dispatcher.store.bus import PostgresBus

        return PostgresBus(settings.store_url, replica, clock)
    return LocalBus(replica)
