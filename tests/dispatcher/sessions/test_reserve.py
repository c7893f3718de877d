"""A reserve, from the keeper's first machine to a session that it serves, over real channels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bot import protocol
from bot.protocol import Acknowledge, Assign, Assigned, Ended, Heartbeat, RoomOpen, Stop, Welcome
from dispatcher.domain.model import MachineState
from dispatcher.machines.provider import NoCapacity
from dispatcher.reserve.settings import ReserveSettings
from dispatcher.sessions.assigner import ASSIGN_SECONDS
from dispatcher.sessions.maintenance.keeper import FIRST_BACKOFF_SECONDS
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, ScriptedMachine, deployment, eventually

NO_WAIT = "/start?wait=none"


def agents(bot: Path | str = "bot/agents/echo.py", *, fixed: int = 1, **more: Any) -> dict[str, Any]:
    of_reserve = {name: more.pop(name) for name in list(more) if name in ReserveSettings.model_fields}
    reserve = ReserveSettings(fixed=fixed, **of_reserve)
    return {"agents": {"echo": AgentSettings(bot=Path(bot), reserve=reserve, **more)}}


async def kept(running: Deployment, number: int = 1) -> list[str]:
    """The machines that the keeper has asked for and that run, after its next look."""
    await running.dispatcher.keeper.tick()
    await running.settle()
    found = [one for one in running.provider.running if one.startswith("m-r")]
    assert len(found) == number
    return found


async def state_of(running: Deployment, machine_id: str) -> MachineState | None:
    machine = await running.dispatcher.store.machine(machine_id)
    return machine.state if machine is not None else None


async def idle(running: Deployment, machine_id: str) -> ScriptedMachine:
    """The machine, connected, and known to wait."""
    machine = await running.connect(machine_id)
    assert isinstance(await machine.hello("idle"), Welcome)
    await eventually(lambda: state_of(running, machine_id), lambda found: found is MachineState.idle)
    return machine


async def told(running: Deployment) -> tuple[ScriptedMachine, str]:
    """A machine of the reserve that was told its session."""
    machine = await idle(running, (await kept(running))[0])
    session_id = (await running.start(NO_WAIT))["sessionId"]
    message = await machine.receive()
    assert isinstance(message, Assign)
    assert message.assignment.session_id == session_id
    return machine, session_id


async def cold(running: Deployment, session_id: str) -> str:
    """Why the session is cold, once its own machine is asked for."""
    own = f"m-{session_id}"

    async def asked() -> bool:
        # Whoever waits for an answer begins at some time after the machine was told.
        running.clock.advance(0.05)
        await asyncio.sleep(0)
        return own in running.provider.specs

    await eventually(asked, bool)
    return (await kinds(running, session_id))["cold-start"]


async def kinds(running: Deployment, session_id: str) -> dict[str, str]:
    return {event["event"]: event["message"] for event in await running.timeline(session_id)}


async def test_start_gets_a_machine_that_waits_and_the_keeper_replaces_it(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        machine, session_id = await told(running)
        await machine.send(Assigned(session_id=session_id))
        assert isinstance(await machine.receive(), RoomOpen)
        await machine.send(Heartbeat(phase="waiting", rss_bytes=1, cpu_seconds=1))
        await running.in_phase(session_id, "waiting")
        assert await state_of(running, machine.id) is MachineState.assigned
        assert "From the reserve" in (await kinds(running, session_id))["from-reserve"]
        await kept(running, 2)
        assert f"m-{session_id}" not in running.provider.specs


async def test_machine_of_the_reserve_is_told_how_long_to_wait_and_no_session(tmp_path):
    async with deployment(tmp_path, **agents(max_age_seconds=100)) as running:
        (machine_id,) = await kept(running)
        arguments = running.provider.specs[machine_id].arguments
        assert arguments[arguments.index("--max-wait") + 1] == "700.0"
        assert "--session-id" not in arguments


async def test_request_of_the_client_reaches_the_machine_once_it_serves_the_session(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        machine, session_id = await told(running)
        offer = asyncio.create_task(running.http.post(f"/sessions/{session_id}/any", json={"a": 1}))
        await machine.send(Assigned(session_id=session_id))
        assert isinstance(await machine.receive(), RoomOpen)
        await machine.answer({"answer": 1})
        assert (await offer).json() == {"answer": 1}


async def test_unanswered_assignment_falls_back_and_the_late_machine_never_runs(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        machine, session_id = await told(running)
        assert f"did not answer within {ASSIGN_SECONDS:g} s" in await cold(running, session_id)
        assert isinstance(await machine.receive(), Stop)
        await machine.send(Assigned(session_id=session_id))
        assert isinstance(await machine.receive(), Stop)
        # A hello that names the session does not win either.
        late = await running.connect(machine.id, session_id)
        assert isinstance(await late.hello("starting"), Welcome)
        assert isinstance(await late.receive(), Stop)
        winner = await running.machine_of(session_id)
        await winner.hello("waiting")
        await running.in_phase(session_id, "waiting")
        session = await running.dispatcher.store.session(session_id)
        assert session is not None
        assert session.machine_id == winner.id


async def test_machine_that_is_not_connected_costs_no_wait(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        machine = await idle(running, (await kept(running))[0])
        await machine.connection.close()
        channels = running.dispatcher.channels
        await eventually(lambda: asyncio.sleep(0, channels.connected), lambda number: number == 0)
        session_id = (await running.start(NO_WAIT))["sessionId"]
        assert "is not connected" in await cold(running, session_id)


async def test_start_without_a_waiting_machine_is_cold_and_says_why(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        await kept(running)
        session_id = (await running.start(NO_WAIT))["sessionId"]
        why = await cold(running, session_id)
        assert why.startswith("Cold: no machine waits in the reserve (1 start).")
        exposition = (await running.http.get("/metrics")).text
        assert 'switchboard_reserve_starts_total{agent="echo",result="none_idle"} 1.0' in exposition


async def test_machine_is_assigned_again_when_it_comes_back_without_having_heard(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        machine, session_id = await told(running)
        again = await running.connect(machine.id)
        assert isinstance(await again.hello("idle", opened_at=1.0), Welcome)
        assert isinstance(await again.receive(), Assign)
        session = await running.dispatcher.store.session(session_id)
        assert session is not None
        assert session.started_at is None
        await again.send(Assigned(session_id=session_id))
        assert isinstance(await again.receive(), RoomOpen)


async def test_machine_that_says_it_serves_the_session_with_its_hello_may_run(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        machine, session_id = await told(running)
        again = await running.connect(machine.id, session_id)
        assert isinstance(await again.hello("idle", opened_at=1.0), Welcome)
        assert isinstance(await again.receive(), RoomOpen)
        assert await state_of(running, machine.id) is MachineState.assigned


async def test_old_revision_goes_once_the_new_one_waits_and_serves_nobody(tmp_path):
    bot = tmp_path / "bot" / "bot.py"
    bot.parent.mkdir()
    bot.write_text("async def bot(runner_args): ...\n")
    async with deployment(tmp_path, **agents(bot)) as running:
        old = await idle(running, (await kept(running))[0])
        bot.write_text("async def bot(runner_args): ...  # edited\n")
        session_id = (await running.start(NO_WAIT))["sessionId"]
        assert "no machine of this revision" in await cold(running, session_id)
        new = next(one for one in await kept(running, 2) if one != old.id)
        assert await state_of(running, old.id) is MachineState.idle
        await idle(running, new)
        await running.dispatcher.keeper.tick()
        assert isinstance(await old.receive(), Stop)
        assert await state_of(running, new) is MachineState.idle


async def test_machine_that_is_too_old_is_replaced_without_a_gap(tmp_path):
    async with deployment(tmp_path, **agents(max_age_seconds=60)) as running:
        old = await idle(running, (await kept(running))[0])
        for _ in range(20):
            running.clock.advance(3)
            await old.send(Heartbeat(phase="idle", rss_bytes=1, cpu_seconds=1))
            await running.dispatcher.reaper.tick()
        new = next(one for one in await kept(running, 2) if one != old.id)
        await idle(running, new)
        await running.dispatcher.keeper.tick()
        assert isinstance(await old.receive(), Stop)


async def test_reserve_yields_to_sessions(tmp_path):
    """With two slots and one session, one machine may wait."""
    async with deployment(tmp_path, **agents(fixed=2, max_sessions=2)) as running:
        # Both have waited equally long: the lower id is claimed.
        first, second = [await idle(running, one) for one in sorted(await kept(running, 2))]
        session_id = (await running.start(NO_WAIT))["sessionId"]
        assert isinstance(await first.receive(), Assign)
        await first.send(Assigned(session_id=session_id))
        assert isinstance(await first.receive(), RoomOpen)
        await kept(running, 2)
        assert await state_of(running, second.id) is MachineState.idle


async def test_provider_that_refuses_is_left_alone_for_a_while(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        running.provider.fault = NoCapacity("none here")
        await kept(running, 0)
        await kept(running, 0)
        asked = running.provider.asked
        assert asked > 0
        await kept(running, 0)
        assert running.provider.asked == asked
        running.provider.fault = None
        await running.look(after=FIRST_BACKOFF_SECONDS)
        await kept(running, 1)


async def test_bot_file_that_cannot_be_imported_does_not_make_machines_without_end(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        (machine_id,) = await kept(running)
        machine = await running.connect(machine_id)
        await machine.hello("loading")
        await machine.send(Ended(reason="invalid_bot", message="It has no bot.", exit_code=1))
        assert isinstance(await machine.receive(), Acknowledge)
        running.provider.die(machine_id, 0)
        await running.settle()
        asked = running.provider.asked
        for _ in range(3):
            await running.dispatcher.keeper.tick()
        assert running.provider.asked == asked


async def test_machine_of_an_older_image_is_ended(tmp_path):
    async with deployment(tmp_path, **agents()) as running:
        machine = await running.connect((await kept(running))[0])
        assert isinstance(await machine.hello("idle", protocol=protocol.RESERVE_SINCE - 1), Welcome)
        assert isinstance(await machine.receive(), Stop)
        assert await state_of(running, machine.id) in (MachineState.retired, MachineState.gone)


async def test_dispatcher_that_dies_after_a_claim_leaves_the_session_to_the_next(tmp_path):
    """The claim is on record; the machine does not come back."""
    async with deployment(tmp_path, **agents(start_timeout_seconds=600)) as running:
        machine, session_id = await told(running)
        provider, clock = running.provider, running.clock
        # What it says later is not heard.
        await machine.connection.close()
    async with deployment(
        tmp_path, provider=provider, clock=clock, **agents(start_timeout_seconds=600)
    ) as running:
        await running.dispatcher.reaper.tick()
        await cold(running, session_id)
        await (await running.machine_of(session_id)).hello("waiting")
        await running.in_phase(session_id, "waiting")


async def test_arrivals_are_counted_per_five_minutes(tmp_path):
    async with deployment(tmp_path, **agents(fixed=0)) as running:
        for _ in range(3):
            await running.start(NO_WAIT)

        async def calls() -> int:
            running.dispatcher.keeper.nudge()
            return sum((await running.dispatcher.store.reserves.history("echo")).values())

        await eventually(calls, lambda number: number == 3)


@pytest.mark.parametrize("more", [agents(fixed=0), {}])
async def test_reserve_that_is_not_wanted_any_more_is_ended(tmp_path, more):
    async with deployment(tmp_path, **agents()) as running:
        await idle(running, (await kept(running))[0])
        provider, clock = running.provider, running.clock
    async with deployment(tmp_path, provider=provider, clock=clock, **more) as running:
        await kept(running, 0)
