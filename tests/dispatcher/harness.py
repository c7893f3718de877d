"""A dispatcher under test: the real app behind a real port, with a scripted provider and a clock by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import heapq
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from fastapi.dependencies import models
from opentelemetry.sdk.trace import TracerProvider
from websockets.asyncio.client import ClientConnection, connect

from bot import protocol
from dispatcher.app import Dispatcher, build
from dispatcher.channel_socket import ChannelSocket
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.limits import LimitedProtocol
from dispatcher.machines.provider import MachineSpec
from dispatcher.server import Server
from dispatcher.settings import AgentSettings, Settings
from dispatcher.store.threads import Runner
from tests.dispatcher import contract
from tests.patience import PATIENCE

T = TypeVar("T")

START_OF_TIME = 1_700_000_000.0


class ManualClock:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self._now = self._monotonic = START_OF_TIME
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    def is_set(self, seconds: float) -> None:
        """The clock jumps, and no time passes: who sleeps does so for as long as before."""
        self._now += seconds
        self._sleepers = [(at + seconds, order, future) for at, order, future in self._sleepers]


class ScriptedProvider:
    """A machines API in memory.

    `fault` is raised by creates, `gate` holds them back; a `deaf` one does not act on stops.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.specs: dict[str, MachineSpec] = {}
        self.gone: dict[str, MachineStatus] = {}
        self.stopped: list[str] = []
        self.fault: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.deaf = False
        self.asked = 0

    async def create(self, spec: MachineSpec) -> MachineStatus:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.specs[spec.id] = spec
        return MachineStatus(spec.id, MachineState.started)

    async def get(self, machine_id: str) -> MachineStatus | None:
        if machine_id in self.gone:
            return self.gone[machine_id]
        known = machine_id in self.specs
        return MachineStatus(machine_id, MachineState.started) if known else None

    async def list(self) -> AsyncIterator[MachineStatus]:
        for machine_id in self.running:
            yield MachineStatus(machine_id, MachineState.started)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        self.stopped.append(machine_id)
        if machine_id in self.running and not self.deaf:
            self.die(machine_id, 143)

    def appear(self, machine_id: str) -> None:
        """A machine that somebody else asked for is there."""
        self.specs[machine_id] = MachineSpec(machine_id, "", (), {}, 1.0, 256, timedelta(hours=1))

    @property
    def running(self) -> list[str]:
        return [machine_id for machine_id in self.specs if machine_id not in self.gone]

    def die(self, machine_id: str, exit_code: int | None, output: str = "") -> None:
        self.gone[machine_id] = MachineStatus(machine_id, MachineState.gone, exit_code, output)


@dataclass
class ScriptedMachine:
    """A machine's end of the channel, played by the test."""

    id: str
    session_id: str | None
    connection: ClientConnection

    async def send(self, message: protocol.FromMachine) -> None:
        await self.connection.send(message.model_dump_json())

    async def receive(self) -> protocol.FromDispatcher:
        async with asyncio.timeout(PATIENCE):
            return protocol.parse_from_dispatcher(await self.connection.recv())

    async def hello(self, phase: protocol.Phase = "waiting", **known: Any) -> protocol.FromDispatcher:
        await self.send(protocol.Hello(machine_id=self.id, session_id=self.session_id, phase=phase, **known))
        return await self.receive()

    async def answer(self, body: Any, status: int = 200, **headers: str) -> protocol.Request:
        """Answer the next request with JSON."""
        request = await self.receive()
        assert isinstance(request, protocol.Request), request
        await self.respond(request, body, status, **headers)
        return request

    async def respond(self, request: protocol.Request, body: Any, status: int = 200, **headers: str) -> None:
        await self.send(
            protocol.Response(
                id=request.id,
                status=status,
                headers=(("content-type", "application/json"), *headers.items()),
                body=base64.b64encode(json.dumps(body).encode()).decode(),
            )
        )


@dataclass
class Deployment:
    """A running dispatcher, and what a test needs around it."""

    dispatcher: Dispatcher
    clock: ManualClock
    provider: ScriptedProvider
    url: str
    http: httpx.AsyncClient
    connections: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def start(self, path: str = "/start", **body: Any) -> dict[str, Any]:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def session(self, session_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def timeline(self, session_id: str) -> list[dict[str, Any]]:
        answer = await self.http.get(f"/v1/sessions/{session_id}/events")
        assert answer.status_code == 200, answer.text
        return answer.json()["events"]

    async def until(self, session_id: str, state: str) -> dict[str, Any]:
        """The session once it is in that state."""
        return await eventually(lambda: self.session(session_id), lambda found: found["state"] == state)

    async def in_phase(self, session_id: str, phase: str) -> None:
        """Return once the session's machine is known to be in that phase."""
        await eventually(lambda: self.session(session_id), lambda found: found["phase"] == phase)

    async def settle(self) -> None:
        """Return once nothing is under way in the background, such as the end of a machine."""
        settling = asyncio.create_task(self.dispatcher.background.settle())
        # Slowly: on a busy machine, calls must not take longer than they may.
        await pass_time(self.clock, settling, step=0.05)

    async def look(self, after: float) -> None:
        """Let so much time pass and the reaper look once, to the end of what comes of it.

        Who advances the clock without a look gives the reaper's lease and the calls under way no more than
        milliseconds, which on a busy machine is too little.
        """
        self.clock.advance(after)
        await self.dispatcher.reaper.tick()
        await self.settle()

    async def connect(self, machine_id: str, session_id: str | None = None) -> ScriptedMachine:
        """Open the channel of a machine with the token that it was created with."""
        token = self.provider.specs[machine_id].environment[protocol.MACHINE_TOKEN_VARIABLE]
        connection = await self.connections.enter_async_context(
            connect(
                self.url.replace("http", "ws") + protocol.CHANNEL_PATH,
                additional_headers={"Authorization": f"Bearer {token}"},
                proxy=None,
                max_size=protocol.MAX_MESSAGE_BYTES,
            )
        )
        return ScriptedMachine(machine_id, session_id, connection)

    async def machine_of(self, session_id: str) -> ScriptedMachine:
        """The session's machine, connected, as it was started: with its session in its arguments."""
        return await self.connect(f"m-{session_id}", session_id)

    async def reported(self, phase: protocol.Phase) -> tuple[str, ScriptedMachine]:
        """A new session whose machine says that it is in that phase, and the machine."""
        session_id = (await self.start())["sessionId"]
        machine = await self.machine_of(session_id)
        await machine.hello(phase)
        await self.in_phase(session_id, phase)
        return session_id, machine


AN_EXIT_AND_MORE = 600.0
"""The start timeout of a session that is to outlive its dispatcher: at an exit a second of the tests' clock
passes in 10 ms, for as long as a busy machine takes to end a server."""


async def eventually(read: Callable[[], Awaitable[T]], reached: Callable[[T], bool]) -> T:
    """Read until it is as it must be: a real server takes milliseconds, and seconds on a busy machine."""
    async with asyncio.timeout(PATIENCE):
        while not reached(found := await read()):
            await asyncio.sleep(0.005)
    return found


def settings_for(directory: Path, port: int, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "port": port,
        "data_dir": directory,
        "agents": {"echo": AgentSettings(bot=Path("bot/agents/echo.py"))},
        "secrets": ["what all dispatchers of a test sign with"],
    }
    return Settings(**(values | more))


@contextlib.asynccontextmanager
async def deployment(
    directory: Path,
    *,
    key: str | None = None,
    environment: dict[str, str] | None = None,
    provider: ScriptedProvider | None = None,
    second: ScriptedProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    clock: ManualClock | None = None,
    runner: Runner | None = None,
    daily: httpx.AsyncBaseTransport | None = None,
    **more: Any,
) -> AsyncIterator[Deployment]:
    """A dispatcher that serves on a free port until the block ends.

    Args:
        second: The provider of a second placement, which is asked after the first.
        clock: Shared by the replicas of one deployment.
        runner: Runs the store's transactions, in the place of threads.
        daily: Answers in the place of Daily's API.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    clock, provider = clock or ManualClock(), provider or ScriptedProvider()
    placements = {"scripted": provider, **({"second": second} if second else {})}
    dispatcher = build(
        settings_for(directory, port, **more),
        clock=clock,
        providers=placements,
        environment=environment or {},
        tracer_provider=tracer_provider,
        runner=runner,
        rooms_api=daily,
    )
    config = uvicorn.Config(
        dispatcher.app,
        http=LimitedProtocol,
        ws=ChannelSocket,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = Server(config, on_drain=dispatcher.drain, on_exit=dispatcher.refuse, drain_seconds=0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        hooks = {"response": [contract.check]}
        # No certificates are read for plain HTTP: that takes longer than many a test.
        async with httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=PATIENCE,
            trust_env=False,
            verify=False,
            event_hooks=hooks,
        ) as http:
            await eventually(lambda: asyncio.sleep(0, server), lambda found: found.started)
            running = Deployment(dispatcher, clock, provider, url, http)
            async with running.connections:
                yield running
    finally:
        server.should_exit = True
        await pass_time(clock, serving)
        _forget_routes()


def _forget_routes() -> None:
    """FastAPI remembers the functions of 4096 routes, and with them all that they close over: our stores.

    After some hundred deployments in one process, collecting garbage would take longer than most tests.
    """
    models._is_gen_callable_cached.cache_clear()
    models._is_async_gen_callable_cached.cache_clear()
    models._is_coroutine_callable_cached.cache_clear()


async def pass_time(clock: ManualClock, until: asyncio.Task[T], step: float = 1.0) -> T:
    """Let something take the time that it takes: so many seconds of the clock in 10 ms of the wall's."""
    while not until.done():
        clock.advance(step)
        await asyncio.wait([until], timeout=0.01)
    return until.result()
