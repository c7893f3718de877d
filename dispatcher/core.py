"""A dispatcher without its HTTP interface: its wiring, and the order in which its parts start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dispatcher.agent_images import AgentImages
from dispatcher.bus import Bus
from dispatcher.clock import Clock
from dispatcher.configured import configured
from dispatcher.disk import Disk
from dispatcher.machines.calls import ProviderCall
from dispatcher.machines.channels import Channels
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import MachineProvider
from dispatcher.outbound.webhooks import Webhooks
from dispatcher.readiness import Readiness
from dispatcher.sessions.assigner import Assigner
from dispatcher.sessions.hints import Hints
from dispatcher.sessions.launcher import Launcher
from dispatcher.sessions.machine_reports import MachineReports
from dispatcher.sessions.maintenance.arrivals import ArrivalCounts
from dispatcher.sessions.maintenance.keeper import Keeper
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.sessions.maintenance.orders import Orders
from dispatcher.sessions.maintenance.orphan_scan import OrphanScan
from dispatcher.sessions.maintenance.probes import Probes
from dispatcher.sessions.maintenance.reaper import Reaper
from dispatcher.sessions.maintenance.retention import Retention
from dispatcher.sessions.notifier import Notifier
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.queue import Queue
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.rooms import Rooms
from dispatcher.sessions.service import SessionService
from dispatcher.sessions.specs import Specs
from dispatcher.sessions.starts import Starts
from dispatcher.sessions.terminator import Terminator
from dispatcher.sessions.watcher import TimelineWatcher
from dispatcher.settings import Settings
from dispatcher.store.store import Store
from dispatcher.store.threads import Runner
from dispatcher.tasks import end_tasks, loop
from dispatcher.telemetry import export
from dispatcher.telemetry.metrics import Metrics
from dispatcher.telemetry.scrape import Scrape
from dispatcher.telemetry.traces import Traces
from dispatcher.tokens import MachineTokens, SessionTokens, Signer, load_or_create_secret
from dispatcher.version import VERSION

if TYPE_CHECKING:
    import httpx
    from opentelemetry.sdk.trace import TracerProvider

DRAIN_SECONDS = 10.0
"""Grace for starts in flight when the dispatcher exits.

With the answers' time before it and the reaper's after it, that is within the 30 s that Kubernetes and ECS
give a container by default.
"""

REAPER_SECONDS = 5.0
"""Grace for the reaper's round when the dispatcher exits."""


@dataclass(frozen=True)
class Core:
    """A dispatcher's parts, wired, without its HTTP interface."""

    settings: Settings
    clock: Clock
    bus: Bus
    store: Store
    notifier: Notifier
    readiness: Readiness
    fleet: Fleet
    channels: Channels
    starts: Starts
    service: SessionService
    queue: Queue
    images: AgentImages
    specs: Specs
    launcher: Launcher
    terminator: Terminator
    rooms: Rooms
    background: DurableBackground
    leadership: Leadership
    probes: Probes
    reaper: Reaper
    machine_reports: MachineReports
    hints: Hints
    orphan_scan: OrphanScan
    keeper: Keeper
    watch: TimelineWatcher
    webhooks: Webhooks | None
    """Webhooks to the deployment's own back end, if the settings name one."""
    tokens: MachineTokens
    session_tokens: SessionTokens
    metrics: Metrics
    scrape: Scrape
    traces: Traces
    spans: TracerProvider | None
    """Makes and exports spans, if anything is traced."""

    @property
    def replica(self) -> str:
        """This process's name among the replicas of its deployment."""
        return self.bus.replica

    def drain(self) -> None:
        """Refuse new starts, and serve everything else: the dispatcher will exit soon."""
        self.service.drain()

    def refuse(self) -> None:
        """Refuse waiting callers, each with a way to come back: the dispatcher is exiting."""
        self.service.refuse()
        self.watch.stop()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the store, and run the background work for as long as the block runs."""
        await self.store.open()
        await self.bus.open()
        self.channels.open()
        # Before any request for a machine: one requested by a replica that seems dead would be an orphan.
        await self.leadership.keep()
        # On every replica, leader or not: one that crashes again and again never leads, yet admits at once.
        await self.background.spawn(self.reaper.end_overdue())
        await self.images.load()
        await self.fleet.prepare({name: self.specs.preparations(name) for name in self.fleet.placements})
        reaping, keeping = loop(self.reaper.run()), loop(self.leadership.run())
        runs = (self.orphan_scan.run, self.keeper.run, self.rooms.run, self.rooms.check, self.images.run)
        others = [loop(run()) for run in runs]
        others += [] if self.webhooks is None else [loop(self.webhooks.run())]
        others += [loop(self.notifier.poll(self.clock)), loop(self.store.ballast.keep(self.clock))]
        try:
            yield
        finally:
            # Starts in flight finish or are left to another dispatcher, which also admits queued callers;
            # live calls are untouched.
            self.service.refuse()
            self.queue.close()
            self.terminator.abandon()
            self.probes.close()
            await end_tasks(*others)
            await self.background.close(DRAIN_SECONDS)
            self.reaper.stop()
            await asyncio.wait([reaping], timeout=REAPER_SECONDS)
            await end_tasks(reaping, keeping)
            # Its last round's tasks are left to other dispatchers too: the store is about to close.
            await self.background.close(0)
            await self.background.stop_asking()
            await self.rooms.close()
            await self.leadership.release()
            await self.readiness.close()
            await self.fleet.close()
            if self.webhooks is not None:
                await self.webhooks.close()
            await self.channels.close()
            await self.bus.close()
            # The next dispatcher takes it again, and may need the space to start.
            await self.store.ballast.give_up()
            await self.store.close()
            if self.spans is not None:
                await export.close(self.spans)


def wire(
    settings: Settings,
    *,
    clock: Clock,
    providers: Mapping[str, MachineProvider],
    bus: Bus,
    environment: Mapping[str, str],
    tracer_provider: TracerProvider | None = None,
    runner: Runner | None = None,
    rooms_api: httpx.AsyncBaseTransport | None = None,
) -> Core:
    """Wire everything but the HTTP interface.

    Args:
        runner: Runs the store's transactions, instead of threads.
        rooms_api: Answers instead of the API of the rooms.
    """
    metrics, disk = Metrics(), Disk(_directories(settings), clock)
    store = Store(
        settings.store_url,
        runner,
        metrics.store_used,
        settings.ending_seconds,
        tells=settings.webhook_url is not None,
    )
    spans = tracer_provider if tracer_provider is not None else export.tracer_provider(environment)
    traces = Traces(None if spans is None else spans.get_tracer("switchboard", VERSION), clock)

    def provider_called(call: ProviderCall) -> None:
        metrics.provider_called(call)
        traces.provider_called(call)

    fleet = Fleet(providers, clock, provider_called)
    notifier, background = Notifier(bus), DurableBackground(store, clock)
    channels = Channels(bus, clock, settings.heartbeat_seconds, on_lost=notifier.resumed)
    signer = Signer(_secrets(settings), clock)
    tokens = MachineTokens(signer, clock)
    arrivals = ArrivalCounts(store, clock)
    observers = (metrics.session_changed, traces.session_changed, arrivals.session_changed)
    repository = Repository(store, notifier, clock, bus.replica, background, observers)
    terminator = Terminator(
        store=store,
        repository=repository,
        fleet=fleet,
        channels=channels,
        clock=clock,
        background=background,
    )
    leadership = Leadership(store=store, clock=clock, replica=bus.replica, alone=bus.alone)
    transports = configured(settings, clock, rooms_api, metrics.room_called)
    rooms = Rooms(
        transports=transports,
        store=store,
        repository=repository,
        terminator=terminator,
        leadership=leadership,
        clock=clock,
        background=background,
    )
    images = AgentImages(settings, fleet, clock)
    specs = Specs(settings, images, tokens, environment, _url_for_machines(settings))
    assigner = Assigner(
        store=store,
        repository=repository,
        terminator=terminator,
        fleet=fleet,
        channels=channels,
        specs=specs,
        clock=clock,
        background=background,
        on_result=metrics.assigned,
    )
    launcher = Launcher(
        store=store,
        repository=repository,
        terminator=terminator,
        rooms=rooms,
        assigner=assigner,
        fleet=fleet,
        specs=specs,
        clock=clock,
        background=background,
    )
    queue = Queue(
        settings=settings,
        store=store,
        repository=repository,
        launcher=launcher,
        fleet=fleet,
        notifier=notifier,
        background=background,
    )
    starts = Starts(
        settings=settings,
        store=store,
        repository=repository,
        launcher=launcher,
        terminator=terminator,
        queue=queue,
        transports=transports,
        fleet=fleet,
        images=images,
        disk=disk,
        clock=clock,
    )
    service = SessionService(
        settings=settings,
        store=store,
        starts=starts,
        terminator=terminator,
        queue=queue,
        channels=channels,
        notifier=notifier,
        clock=clock,
        background=background,
    )
    scrape = Scrape(
        metrics.registry, agents=settings.agents, store=store, channels=channels, fleet=fleet, clock=clock
    )
    watch = TimelineWatcher(store, queue, notifier, clock)
    orphan_scan = OrphanScan(
        store=store,
        fleet=fleet,
        leadership=leadership,
        repository=repository,
        clock=clock,
        background=background,
        on_orphan=metrics.orphan_found,
    )
    orders = Orders(
        store=store,
        repository=repository,
        terminator=terminator,
        fleet=fleet,
        specs=specs,
        leadership=leadership,
        clock=clock,
        background=background,
    )
    keeper = Keeper(
        store=store,
        repository=repository,
        terminator=terminator,
        channels=channels,
        specs=specs,
        leadership=leadership,
        arrivals=arrivals,
        limits=queue.limits,
        clock=clock,
        orders=orders,
    )
    assigner.observe_claims(keeper.nudge)
    probes = Probes(
        store=store,
        repository=repository,
        fleet=fleet,
        channels=channels,
        terminator=terminator,
        leadership=leadership,
        orphan_scan=orphan_scan,
        clock=clock,
        background=background,
        unresponsive_seconds=settings.unresponsive_seconds,
    )
    reaper = Reaper(
        terminator=terminator,
        queue=queue,
        store=store,
        probes=probes,
        leadership=leadership,
        launcher=launcher,
        retention=Retention(
            store=store, leadership=leadership, clock=clock, keep_sessions_days=settings.keep_sessions_days
        ),
        clock=clock,
        on_round=metrics.reaper_round,
    )
    machine_reports = MachineReports(
        repository=repository,
        terminator=terminator,
        store=store,
        channels=channels,
        clock=clock,
        background=background,
        on_lost=reaper.lost,
    )

    hints = Hints(
        store=store,
        repository=repository,
        bus=bus,
        background=background,
        look_soon=reaper.lost,
    )

    return Core(
        settings=settings,
        clock=clock,
        bus=bus,
        store=store,
        notifier=notifier,
        readiness=Readiness(store=store, bus=bus, fleet=fleet, images=images, clock=clock, disk=disk),
        fleet=fleet,
        channels=channels,
        starts=starts,
        service=service,
        queue=queue,
        images=images,
        specs=specs,
        launcher=launcher,
        terminator=terminator,
        rooms=rooms,
        background=background,
        leadership=leadership,
        probes=probes,
        reaper=reaper,
        orphan_scan=orphan_scan,
        keeper=keeper,
        machine_reports=machine_reports,
        hints=hints,
        watch=watch,
        webhooks=_webhooks(settings, store, clock, leadership, metrics),
        tokens=tokens,
        session_tokens=SessionTokens(signer),
        metrics=metrics,
        scrape=scrape,
        traces=traces,
        spans=spans,
    )


def _webhooks(
    settings: Settings, store: Store, clock: Clock, leadership: Leadership, metrics: Metrics
) -> Webhooks | None:
    if settings.webhook_url is None:
        return None
    return Webhooks(
        settings.webhook_url,
        settings.webhook_secrets,
        settings.webhook_networks,
        store=store,
        clock=clock,
        leads=lambda: leadership.held,
        on_attempt=metrics.webhook_attempted,
    )


def _directories(settings: Settings) -> list[Path]:
    """Return the directories on this host that the dispatcher writes to."""
    url = sa.make_url(settings.store_url)
    database = url.database if url.get_backend_name() == "sqlite" else None
    directories = [settings.data_dir, *([Path(database).parent] if database else [])]
    return list(dict.fromkeys(directory.resolve() for directory in directories))


def _secrets(settings: Settings) -> list[bytes]:
    if settings.secrets:
        return [secret.get_secret_value().encode() for secret in settings.secrets]
    return [load_or_create_secret(settings.data_dir / "machine-token.key")]


def _url_for_machines(settings: Settings) -> str:
    """Return the URL at which machines reach a dispatcher; on this host, never a public name or a proxy."""
    if settings.machine_url is not None:
        return settings.machine_url.rstrip("/")
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "localhost") else settings.host  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
