"""The dispatcher that is fuzzed: its machines are tasks that speak the channel, and its time runs fast."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from bot import protocol
from dispatcher.domain.model import MachineStatus
from dispatcher.machines.provider import LogPart, MachineSpec, NoCapacity
from dispatcher.settings import AgentSettings
from dispatcher.tasks import end_tasks
from tests.dispatcher.harness import Deployment, ManualClock, ScriptedMachine, ScriptedProvider, deployment

FULL = "full.py"
"""The bot for which there is never a machine."""

HOSTILE = "hostile.py"
"""The bot whose answers are what no bot should give."""

HEADERS = {
    "Set-Cookie": "session=theirs; Path=/",
    "Strict-Transport-Security": "max-age=0",
    "Clear-Site-Data": '"*"',
    "Content-Length": "7",
    "Transfer-Encoding": "chunked",
    "Connection": "close",
}
FORGED = "goodbye\r\n1970-01-01 INFO all is well\x1b[2K\x00"

LIFE_SECONDS = 25.0
"""Time that a bot talks."""

SPEED = 25.0
"""Seconds of the dispatcher's in one of the wall's."""

TICK_SECONDS = 0.005


class Bots(ScriptedProvider):
    """Machines whose bots answer every call, take every client, and go when told to or after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.deployment: Deployment | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def create(self, spec: MachineSpec) -> MachineStatus:
        if spec.bot_file == FULL:
            raise NoCapacity("every machine is taken")
        status = await super().create(spec)
        task = asyncio.create_task(self._run(spec))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return status

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        return LogPart(("a line",)[:lines], after or 7)

    async def close(self) -> None:
        if self._running:
            await end_tasks(*self._running)

    async def _run(self, spec: MachineSpec) -> None:
        assert self.deployment is not None
        # ConnectionClosed: the dispatcher exits.
        with contextlib.suppress(ConnectionClosed):
            machine = await self.deployment.connect(spec.id, spec.id.removeprefix("m-"))
            await machine.hello("waiting")
            harms = itertools.cycle(HARMS) if spec.bot_file == HOSTILE else None
            serving = asyncio.create_task(_serve_until_closed(machine, harms))
            timer = asyncio.create_task(self.deployment.clock.sleep(LIFE_SECONDS))
            await asyncio.wait((serving, timer), return_when=asyncio.FIRST_COMPLETED)
            told = serving.done()
            await end_tasks(serving, timer)
            reason = "stopped" if told else "completed"
            message = "The bot said goodbye." if harms is None else FORGED
            await machine.send(protocol.Ended(reason=reason, message=message))
            while not isinstance(await machine.receive(), protocol.Acknowledge):
                pass
            await machine.connection.close()
        self.die(spec.id, 0)


Harm = Callable[[ScriptedMachine, protocol.Request], Awaitable[None]]


async def _answer_oddly(machine: ScriptedMachine, call: protocol.Request) -> None:
    """A status without a body, with one, and headers that are not a bot's to set."""
    await machine.respond(call, {"odd": True}, 204, **HEADERS)


async def _answer_with_no_status(machine: ScriptedMachine, call: protocol.Request) -> None:
    await machine.respond(call, {"odd": True}, 7)


async def _answer_with_many_headers(machine: ScriptedMachine, call: protocol.Request) -> None:
    headers = {f"x-{number}": "y" * 100 for number in range(2000)}
    await machine.respond(call, {"odd": True}, 200, **headers)


async def _answer_with_broken_headers(machine: ScriptedMachine, call: protocol.Request) -> None:
    headers = {"x-\r\ninjected": "1", "x-line": "1\r\nx-injected: 2"}
    await machine.respond(call, {"odd": True}, 200, **headers)


async def _answer_without_base64(machine: ScriptedMachine, call: protocol.Request) -> None:
    await machine.send(protocol.Response(id=call.id, status=200, body="no base64 at all \u2603"))


async def _flip_its_client(machine: ScriptedMachine, call: protocol.Request) -> None:
    for _ in range(100):
        await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
        await machine.send(protocol.ClientDisconnected())
    await machine.respond(call, {"odd": True})


async def _answer_everybody(machine: ScriptedMachine, call: protocol.Request) -> None:
    """Answers to calls that were not made, then the right one twice."""
    for other in ("", "other", call.id, call.id):
        await machine.send(protocol.Response(id=other, status=200, body="e30="))


async def _break_off(machine: ScriptedMachine, call: protocol.Request) -> None:
    """Say what is no message, in the place of an answer."""
    await machine.connection.send('{"type": "no such thing"}')
    await machine.connection.send("[" * 10_000)


HARMS: tuple[Harm, ...] = (
    _answer_oddly,
    _answer_with_no_status,
    _answer_with_many_headers,
    _answer_with_broken_headers,
    _answer_without_base64,
    _flip_its_client,
    _answer_everybody,
    _break_off,
)


async def _serve(machine: ScriptedMachine, harms: Iterator[Harm] | None) -> None:
    """Answer calls until told to stop; with `harms`, one after the other."""
    while not isinstance(
        message := protocol.parse_from_dispatcher(await machine.connection.recv()), protocol.Stop
    ):
        if not isinstance(message, protocol.Request):
            continue
        if harms is not None:
            await next(harms)(machine, message)
            continue
        if message.path == "api/offer":
            await machine.send(protocol.Ready(timings=protocol.Timings()))
            await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
            answer = {"sdp": "v=0\r\n", "type": "answer", "pc_id": "one"}
            await machine.respond(message, answer if message.method == "POST" else {"status": "success"})
            continue
        await machine.respond(message, {"method": message.method, "path": message.path})


async def _serve_until_closed(machine: ScriptedMachine, harms: Iterator[Harm] | None) -> None:
    with contextlib.suppress(ConnectionClosed):
        await _serve(machine, harms)


@contextlib.asynccontextmanager
async def target(directory: Path) -> AsyncIterator[Deployment]:
    """A dispatcher with little room. An agent works, one never gets a machine, one is hostile."""
    agents = {"echo": _agent("echo.py"), "full": _agent(FULL), "hostile": _agent(HOSTILE)}
    bots = Bots()
    async with deployment(directory, provider=bots, agents=agents, call_timeout_seconds=600) as running:
        bots.deployment = running
        passing = asyncio.create_task(_pass_quickly(running.clock))
        try:
            yield running
        finally:
            await end_tasks(passing)
            await bots.close()


def _agent(bot: str) -> AgentSettings:
    return AgentSettings(
        bot=Path(bot),
        max_sessions=10,
        # Far away: a busy machine must not let a session fail that nothing is wrong with.
        start_timeout_seconds=600,
        client_timeout_seconds=3600,
        max_duration_seconds=3600,
    )


async def _pass_quickly(clock: ManualClock) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        clock.advance(SPEED * TICK_SECONDS)
