"""The dispatcher that is fuzzed: its machines are tasks that speak the channel, and its time runs fast."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from bot import protocol
from dispatcher.machines.provider import LogPart, MachineSpec, MachineStatus, NoCapacity
from dispatcher.settings import AgentSettings
from dispatcher.tasks import end_tasks
from tests.dispatcher.harness import Deployment, ManualClock, ScriptedMachine, ScriptedProvider, deployment

FULL = "full.py"
"""The bot for which there is never a machine."""

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
            serving = asyncio.create_task(_serve(machine))
            timer = asyncio.create_task(self.deployment.clock.sleep(LIFE_SECONDS))
            await asyncio.wait((serving, timer), return_when=asyncio.FIRST_COMPLETED)
            told = serving.done()
            await end_tasks(serving, timer)
            reason = "stopped" if told else "completed"
            await machine.send(protocol.Ended(reason=reason, message="The bot said goodbye."))
            while not isinstance(await machine.receive(), protocol.Acknowledge):
                pass
            await machine.connection.close()
        self.die(spec.id, 0)


async def _serve(machine: ScriptedMachine) -> None:
    """Answer calls until told to stop."""
    while not isinstance(
        message := protocol.parse_from_dispatcher(await machine.connection.recv()), protocol.Stop
    ):
        if not isinstance(message, protocol.Request):
            continue
        if message.path == "api/offer":
            await machine.send(protocol.Ready(timings=protocol.Timings()))
            await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
            answer = {"sdp": "v=0\r\n", "type": "answer", "pc_id": "one"}
            await machine.respond(message, answer if message.method == "POST" else {"status": "success"})
            continue
        await machine.respond(message, {"method": message.method, "path": message.path})


@contextlib.asynccontextmanager
async def target(directory: Path) -> AsyncIterator[Deployment]:
    """A dispatcher with an agent that works, one that never gets a machine, and little room."""
    agents = {"echo": _agent("echo.py"), "full": _agent(FULL)}
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
