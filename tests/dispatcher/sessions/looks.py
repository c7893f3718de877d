"""Steps that tests of the reaper and of its probes take with a dispatcher."""

import asyncio
from pathlib import Path

from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, ScriptedMachine, eventually
from tests.patience import PATIENCE


async def end_of(running: Deployment, session_id: str, after: float) -> dict:
    """The session once so many seconds have passed and the reaper has looked."""
    running.clock.advance(after)
    # It may be in the midst of a round that began before, and would go to sleep on a clock that stands.
    running.dispatcher.reaper.nudge()
    return await running.until(session_id, "failed")


async def dies(running: Deployment, machine: ScriptedMachine) -> None:
    """Return once the machine is gone and the dispatcher has no channel of it any more."""
    running.provider.die(machine.id, 1, "")
    await machine.connection.close()
    last_heard = running.dispatcher.channels.last_heard
    await eventually(lambda: asyncio.sleep(0, last_heard(machine.id)), lambda heard: heard is None)


async def look_once(running: Deployment) -> None:
    """A look of the reaper, which must not wait for a provider."""
    async with asyncio.timeout(PATIENCE):
        await running.dispatcher.reaper.tick()


def limits(**more) -> dict[str, AgentSettings]:
    return {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), **more)}
