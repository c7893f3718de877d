"""The end of machines: how often their provider is asked meanwhile, whose calls are counted."""

import asyncio
import random
import socket
from datetime import timedelta

import httpx

from bot import protocol
from dispatcher import channel_socket
from dispatcher.domain import deadlines
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.provider import MachineSpec, NoCapacity, Unreachable
from tests.dispatcher.harness import Deployment, ScriptedMachine, ScriptedProvider, deployment, eventually
from tests.patience import PATIENCE


class Counting(ScriptedProvider):
    """Remembers when it was asked about a machine."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    async def get(self, machine_id: str) -> MachineStatus | None:
        self.looks += 1
        return await super().get(machine_id)


async def small_steps(running: Deployment, seconds: float) -> None:
    """Let time pass, so that the dispatcher sees each step."""
    for _ in range(round(seconds * 20)):
        running.clock.advance(0.05)
        for _ in range(20):
            await asyncio.sleep(0)
        await running.http.get("/healthz")


async def stopped(running: Deployment) -> ScriptedMachine:
    """The machine of a session that was stopped, and has been told so."""
    session_id, machine = await running.reported("waiting")
    assert (await running.http.delete(f"/sessions/{session_id}")).status_code == 200
    assert isinstance(await machine.receive(), protocol.Stop)
    return machine


async def gone(running: Deployment, machine: ScriptedMachine) -> None:
    store = running.dispatcher.store
    await eventually(lambda: store.machine(machine.id), lambda row: row is not None and row.state == "gone")


async def test_a_provider_is_not_asked_before_the_bot_said_goodbye(tmp_path):
    provider = Counting()
    async with deployment(tmp_path, provider=provider) as running:
        machine = await stopped(running)
        # Before its channel stood, the reaper may have asked for it.
        provider.looks = 0
        await small_steps(running, 3)
        assert provider.looks == 0
        await machine.send(protocol.Ended(reason="stopped", message="Goodbye."))
        assert isinstance(await machine.receive(), protocol.Acknowledge)
        provider.die(machine.id, 0)
        await small_steps(running, 0.2)
        await gone(running, machine)
        assert provider.looks <= 2
        assert (await running.timeline(machine.session_id or ""))[-1]["event"] == "machine-gone"


async def test_machine_is_probed_ever_less_and_then_ended_when_it_stays_after_its_end(tmp_path):
    provider = Counting()
    async with deployment(tmp_path, provider=provider) as running:
        machine = await stopped(running)
        await machine.send(protocol.Ended(reason="stopped", message="Goodbye."))
        assert isinstance(await machine.receive(), protocol.Acknowledge)
        await small_steps(running, 4.8)
        assert machine.id in provider.running
        await small_steps(running, 0.5)
        await gone(running, machine)
        assert provider.stopped == [machine.id]
        assert 4 <= provider.looks <= 8


async def test_a_channel_that_breaks_is_a_goodbye_too(tmp_path):
    provider = Counting()
    async with deployment(tmp_path, provider=provider) as running:
        machine = await stopped(running)
        provider.die(machine.id, 137)
        await machine.connection.close()
        await small_steps(running, 0.3)
        await gone(running, machine)
        assert provider.looks <= 3


async def test_a_bot_that_never_says_goodbye_is_ended_after_its_grace(tmp_path):
    provider = Counting()
    async with deployment(tmp_path, provider=provider) as running:
        machine = await stopped(running)
        await small_steps(running, 4.5)
        assert machine.id in provider.running
        await small_steps(running, 0.6)
        await gone(running, machine)
        assert provider.stopped == [machine.id]


async def test_a_session_ends_when_there_is_a_reason_and_not_when_somebody_began_to_look(
    tmp_path, monkeypatch
):
    async with deployment(tmp_path) as running:
        session_id, _ = await running.reported("waiting")
        store, clock = running.dispatcher.store, running.clock
        session = await store.session(session_id)
        assert session is not None
        deadline = deadlines.deadline(session)
        assert deadline is not None
        clock.advance(deadline[0] - clock.now() - 1)
        write = store.writes.update_session

        async def late(*arguments, **more):
            clock.advance(5)
            return await write(*arguments, **more)

        monkeypatch.setattr(store.writes, "update_session", late)
        await running.dispatcher.terminator.close_if(
            session, lambda current: deadlines.overdue(current, clock.now())
        )
        after = await store.session(session_id)
        assert after is not None
        assert after.reason == "no_client"
        assert after.ended_at is not None
        assert after.ended_at > deadline[0]


async def test_exit_code_is_on_record_when_the_provider_forgets_the_machine(tmp_path):
    class Forgets(ScriptedProvider):
        """Tells once how a machine ended, and cannot be told to stop one."""

        async def get(self, machine_id: str) -> MachineStatus | None:
            status = await super().get(machine_id)
            self.gone.pop(machine_id, None)
            return status

        async def stop(self, machine_id: str, grace: timedelta) -> None:
            raise Unreachable("no answer")

    provider = Forgets()
    async with deployment(tmp_path, provider=provider) as running:
        machine = await stopped(running)
        provider.die(machine.id, 7)
        await machine.connection.close()
        await small_steps(running, 0.3)
        await gone(running, machine)
        row = await running.dispatcher.store.machine(machine.id)
        assert row is not None
        assert row.exit_code == 7


async def test_a_machine_that_is_gone_by_the_time_of_its_creates_answer_has_ended(tmp_path):
    class Late(ScriptedProvider):
        """Its machines have ended before it answers: of each it had been asked before."""

        async def create(self, spec: MachineSpec) -> MachineStatus:
            await super().create(spec)
            self.die(spec.id, 3, "ImportError: no module named 'torch'\n")
            return self.gone.pop(spec.id)

    async with deployment(tmp_path, provider=Late()) as running:
        answer = await running.http.post("/start?wait=started", json={})
        assert answer.status_code == 502
        assert "exit status 3" in answer.text
        (session,) = (await running.http.get("/v1/sessions")).json()["sessions"]
        assert (session["state"], session["reason"]) == ("failed", "machine_exited")
        assert session["exitCode"] == 3
        machine = await running.dispatcher.store.machine(f"m-{session['sessionId']}")
        assert machine is not None
        assert (machine.state, machine.exit_code) == (MachineState.gone, 3)


async def test_machine_stays_on_record_when_its_start_moved_on_during_the_question(tmp_path, monkeypatch):
    class RefusesLate(ScriptedProvider):
        """Shows a machine as gone whose create it refuses."""

        def __init__(self) -> None:
            super().__init__()
            self.gate, self.fault = asyncio.Event(), NoCapacity("launch failed")
            self.is_asked, self.may_answer = asyncio.Event(), asyncio.Event()

        async def get(self, machine_id: str) -> MachineStatus | None:
            self.is_asked.set()
            await self.may_answer.wait()
            return await super().get(machine_id)

    first, second = RefusesLate(), ScriptedProvider()
    assert first.gate is not None
    second.gate = asyncio.Event()
    moving, may_move = asyncio.Event(), asyncio.Event()
    async with deployment(tmp_path, provider=first, second=second) as running, asyncio.timeout(PATIENCE):
        store, terminator = running.dispatcher.store, running.dispatcher.terminator
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        machine_id = f"m-{session_id}"
        await eventually(lambda: asyncio.sleep(0, first.asked), bool)
        first.die(machine_id, None)
        write = store.writes.update_machine

        async def held(*arguments):
            moving.set()
            await may_move.wait()
            return await write(*arguments)

        monkeypatch.setattr(store.writes, "update_machine", held)
        first.gate.set()
        await moving.wait()
        assert (await running.http.delete(f"/sessions/{session_id}")).status_code == 200
        await first.is_asked.wait()
        may_move.set()
        await eventually(lambda: asyncio.sleep(0, second.asked), bool)
        first.may_answer.set()
        await eventually(lambda: asyncio.sleep(0, terminator.under_way(machine_id)), lambda busy: not busy)
        row = await store.machine(machine_id)
        assert row is not None
        assert (row.placement, row.state) == ("second", MachineState.requested)
        second.gate.set()
        await running.settle()
        row = await store.machine(machine_id)
        assert row is not None
        assert row.state is MachineState.gone
        assert second.running == []


MEGABYTE = random.Random(1).randbytes(1024 * 1024)
"""It cannot be compressed, as channels do with what can."""


async def deafened(running: Deployment) -> tuple[ScriptedMachine, list[asyncio.Task[httpx.Response]]]:
    """A machine that has stopped reading its channel, with more calls than the system keeps for it."""
    session_id, machine = await running.reported("ready")
    transport = machine.connection.transport
    # The system would take several megabytes in the machine's place.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    transport.pause_reading()
    calls = [
        asyncio.create_task(running.http.post(f"/sessions/{session_id}/api/echo", content=MEGABYTE))
        for _ in range(8)
    ]
    await eventually(
        lambda: asyncio.sleep(0, running.dispatcher.service.held_calls.calls), lambda held: held == 8
    )
    return machine, calls


async def test_a_machine_is_ended_by_its_provider_when_it_does_not_read_its_channel(tmp_path):
    async with deployment(tmp_path) as running:
        machine, calls = await deafened(running)
        assert (await running.http.delete(f"/sessions/{machine.session_id}")).status_code == 200
        assert {(await call).status_code for call in calls} == {410}
        assert machine.id in running.provider.running
        # The server's own pings would break the connection after 40 s.
        async with asyncio.timeout(PATIENCE):
            await running.settle()
        assert running.provider.stopped == [machine.id]
        await gone(running, machine)


async def test_a_connection_that_is_not_read_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(channel_socket, "WRITE_SECONDS", 0.2)

    async with deployment(tmp_path) as running:
        machine, calls = await deafened(running)
        channels = running.dispatcher.channels
        await eventually(lambda: asyncio.sleep(0, channels.connected), lambda number: number == 0)
        # The calls wait for its next connection.
        assert not any(call.done() for call in calls)
        await running.http.delete(f"/sessions/{machine.session_id}")
        await asyncio.wait(calls)


async def test_a_new_connection_is_served_while_the_one_before_is_not_read(tmp_path):
    async with deployment(tmp_path) as running:
        machine, calls = await deafened(running)
        again = await running.connect(machine.id, machine.session_id)
        assert isinstance(await again.hello("ready", opened_at=1.0), protocol.Welcome)
        async with asyncio.timeout(PATIENCE):
            while not isinstance(await again.receive(), protocol.Request):
                pass
        await running.http.delete(f"/sessions/{machine.session_id}")
        await asyncio.wait(calls)
