"""What providers are asked about machines that are silent, and what comes of the answers."""

import asyncio
from collections import Counter

from dispatcher.machines.placement import Placement
from dispatcher.machines.provider import Unreachable
from dispatcher.sessions import inquiries
from dispatcher.store.due import Page
from tests.dispatcher.harness import deployment, eventually
from tests.dispatcher.sessions.looks import dies, end_of, limits, look_once


def test_a_lost_channel_is_asked_about_however_lately_its_machine_was(tmp_path):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start("/start?wait=started"))["sessionId"]
            # It has not connected yet, so its provider is asked.
            await running.dispatcher.reaper.tick()
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            running.provider.die(machine.id, 1, "")
            await machine.connection.close()
            assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"

    asyncio.run(run())


def test_a_placement_that_does_not_answer_keeps_no_deadline_waiting(tmp_path, monkeypatch):
    async def run():
        agents = limits(start_timeout_seconds=20, client_timeout_seconds=2.0, max_sessions=12)
        async with deployment(tmp_path, agents=agents) as running:
            waiting, *silent = [(await running.start())["sessionId"] for _ in range(12)]
            await (await running.machine_of(waiting)).hello("waiting")
            await running.in_phase(waiting, "waiting")
            asked = []

            async def never(machine_id):
                asked.append(machine_id)
                await asyncio.Event().wait()

            with monkeypatch.context() as hanging:
                hanging.setattr(running.provider, "get", never)
                running.clock.advance(0.5)
                await look_once(running)
                await eventually(lambda: asyncio.sleep(0, asked), bool)
                assert (await end_of(running, waiting, after=2.0))["reason"] == "no_client"
                running.clock.advance(18)
                for session_id in silent:
                    assert (await end_of(running, session_id, after=0.0))["reason"] == "start_timeout"
                still = len(set(asked))
                assert still > inquiries.AT_ONCE, "those whose answers did not come made way for others"

    asyncio.run(run())


def test_of_many_silent_machines_none_is_asked_about_twice_before_all_others_were(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path, agents=limits(start_timeout_seconds=600, max_sessions=20)) as running:
            asked = Counter({f"m-{(await running.start())['sessionId']}": 0 for _ in range(20)})
            get = running.provider.get

            async def slowly(machine_id):
                asked[machine_id] += 1
                await running.clock.sleep(5.0)
                return await get(machine_id)

            with monkeypatch.context() as slow:
                slow.setattr(inquiries, "AT_ONCE", 2)
                slow.setattr(inquiries, "PAUSES", (0.5,))
                slow.setattr(running.provider, "get", slowly)
                while min(asked.values()) < 3:
                    running.clock.advance(0.5)
                    await look_once(running)
                    assert max(asked.values()) - min(asked.values()) <= 1

    asyncio.run(run())


def test_what_happens_while_a_machine_is_being_asked_about_makes_it_be_asked_about_again(
    tmp_path, monkeypatch
):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start("/start?wait=started"))["sessionId"]
            asked, answers, get = asyncio.Event(), asyncio.Event(), running.provider.get

            async def held(machine_id):
                status = await get(machine_id)
                asked.set()
                await answers.wait()
                return status

            with monkeypatch.context() as holding:
                holding.setattr(running.provider, "get", held)
                running.clock.advance(0.5)
                await look_once(running)
                await asked.wait()
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            await dies(running, machine)
            await look_once(running)
            answers.set()
            assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"

    asyncio.run(run())


def test_a_channel_that_breaks_again_while_the_reaper_looks_is_not_forgotten(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            store, looks = running.dispatcher.store, running.dispatcher.reaper
            find, broken = store.due_machines, []

            async def nothing(_behind):
                return Page((), (), (), None)

            async def breaks_again(*arguments):
                due = await find(*arguments)
                if not broken:
                    broken.append(machine.id)
                    await dies(running, machine)
                return due

            monkeypatch.setattr(store, "live_machines", nothing)
            monkeypatch.setattr(store, "due_machines", breaks_again)
            looks.lost(machine.id)
            await look_once(running)
            await look_once(running)
            assert broken
            assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"

    asyncio.run(run())


def test_a_machine_that_cannot_be_asked_about_is_ended_all_the_same(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start("/start?wait=started"))["sessionId"]
            running.provider.deaf = True
            await running.http.delete(f"/sessions/{session_id}")
            await running.settle()
            running.provider.stopped.clear()

            async def gone_away(_machine_id):
                raise Unreachable("no answer")

            with monkeypatch.context() as silent:
                silent.setattr(running.provider, "get", gone_away)
                await running.look(1.0)
                await running.look(inquiries.RELEASE_SECONDS)
                assert running.provider.stopped == [f"m-{session_id}"]

    asyncio.run(run())


def test_a_machine_is_missing_as_of_when_it_was_asked_about(tmp_path, monkeypatch):
    """Of one that started just now a provider may know nothing yet, however late it says so."""

    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            monkeypatch.setattr(Placement, "settling", 4.0)

            with monkeypatch.context() as slow:
                asked = []

                async def late_once(machine_id):
                    asked.append(machine_id)
                    slow.undo()  # the next one may be asked when the provider ought to know
                    running.clock.advance(5.0)

                slow.setattr(running.provider, "get", late_once)
                running.clock.advance(0.5)
                await running.dispatcher.reaper.tick()
                await running.settle()
            assert len(asked) == 1
            assert (await running.session(session_id))["state"] == "starting"

    asyncio.run(run())


def test_a_lost_channel_alone_ends_nothing(tmp_path):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            await machine.connection.close()
            for _ in range(100):
                await running.look(1)
            assert (await running.session(session_id))["state"] == "active"
            assert running.provider.stopped == []

    asyncio.run(run())
