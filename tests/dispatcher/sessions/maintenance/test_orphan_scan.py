"""Machines without an owner, and rows without their machine."""

from pathlib import Path

from dispatcher.machines.provider import Unreachable
from dispatcher.sessions.maintenance.orphan_scan import LISTING_SECONDS
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, ScriptedProvider, deployment, eventually

LONG = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), start_timeout_seconds=600)}


async def look(running: Deployment, times: int = 1) -> None:
    """So many listings, at their usual distance, and what comes of them."""
    for _ in range(times):
        running.clock.advance(LISTING_SECONDS)
        await running.dispatcher.orphan_scan.look()
        await running.dispatcher.background.settle()


async def orphans(running: Deployment) -> float:
    text = (await running.http.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("switchboard_orphans_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def test_a_machine_that_nobody_owns_is_ended_after_a_grace_and_counted(tmp_path):
    async with deployment(tmp_path, agents=LONG) as running:
        owned = (await running.start())["sessionId"]
        running.provider.appear("m-nobodys")
        await look(running)
        assert running.provider.stopped == []
        await look(running, 2)
        assert running.provider.running == [f"m-{owned}"]
        assert await orphans(running) == 1


class Keeping(ScriptedProvider):
    """Keeps what has ended."""

    def __init__(self):
        super().__init__()
        self.ended: tuple[str, ...] = ()
        self.on_record: set[str] = set()

    def recorded(self, machine_ids):
        self.on_record.update(machine_ids)


async def test_machines_that_have_ended_are_kept_only_while_a_row_waits_for_them(tmp_path):
    provider = Keeping()

    async with deployment(tmp_path, agents=LONG, provider=provider) as running:
        over, live = [(await running.start())["sessionId"] for _ in range(2)]
        await running.http.delete(f"/sessions/{over}")
        await running.dispatcher.background.settle()
        # As a dispatcher finds it that takes the place of one that was killed: nobody has asked it yet.
        provider.ended = (f"m-{over}", f"m-{live}", "m-of-a-lost-database")
        await look(running)
        assert provider.on_record == {f"m-{over}", "m-of-a-lost-database"}


async def test_orphan_is_ended_in_its_time_when_the_clock_was_set_back(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.appear("m-nobodys")
        await look(running)
        running.clock.is_set(-600)
        await look(running)
        assert running.provider.stopped == []
        await look(running, 2)
        assert running.provider.running == []


async def test_a_machine_whose_row_was_closed_too_early_is_ended(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        await running.http.delete(f"/sessions/{session_id}")
        await running.dispatcher.background.settle()
        assert not (await running.dispatcher.store.live_machines()).ids
        del running.provider.gone[f"m-{session_id}"]
        await look(running, 4)
        assert running.provider.running == []
        (told,) = [one for one in await running.timeline(session_id) if one["event"] == "orphan-stopped"]
        assert (told["by"], told["state"]) == ("reaper", "ended")
        assert f"m-{session_id} was found at scripted" in told["message"]


async def test_a_second_machine_of_a_session_at_another_placement_is_ended(tmp_path):
    second = ScriptedProvider()

    async with deployment(tmp_path, second=second, agents=LONG) as running:
        session_id = (await running.start())["sessionId"]
        second.appear(f"m-{session_id}")
        await look(running, 4)
        assert second.running == []
        assert running.provider.running == [f"m-{session_id}"]
        told = (await running.timeline(session_id))[-1]
        assert told["event"] == "orphan-stopped"
        assert "at second" in told["message"]
        assert (await running.session(session_id))["state"] == "starting"


async def test_a_machine_that_is_seen_now_and_then_is_not_ended(tmp_path):
    async with deployment(tmp_path) as running:
        for _ in range(4):
            running.provider.appear("m-nobodys")
            await look(running)
            del running.provider.specs["m-nobodys"]
            await look(running)
        assert running.provider.stopped == []


async def test_only_the_reaper_ends_machines(tmp_path):
    async with deployment(tmp_path) as running:
        await look(running)
        running.provider.appear("m-nobodys")
        await running.dispatcher.store.release_leases(running.dispatcher.replica)
        await running.dispatcher.store.beat("another", ("reaper",), {}, False)
        # As on a store that others share.
        running.dispatcher.leadership._alone = False
        await look(running, 4)
        assert running.provider.stopped == []


async def test_a_machine_that_cannot_be_ended_is_tried_again_and_counted_once(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.appear("m-nobodys")
        running.provider.deaf = True
        await look(running, 6)
        assert len(running.provider.stopped) > 1
        assert await orphans(running) == 1
        running.provider.deaf = False
        await look(running)
        assert running.provider.running == []


async def test_a_placement_that_cannot_be_listed_does_not_keep_the_others_from_it(tmp_path, monkeypatch):
    second = ScriptedProvider()

    async with deployment(tmp_path, second=second) as running:

        def unlisted():
            raise Unreachable("no answer")

        monkeypatch.setattr(running.provider, "list", unlisted)
        second.appear("m-nobodys")
        await look(running, 4)
        assert second.running == []


async def test_a_silent_machine_that_the_listing_does_not_have_is_asked_for_at_once(tmp_path):
    async with deployment(tmp_path, unresponsive_seconds=86_400) as running:
        session_id, machine = await running.reported("active")
        await machine.connection.close()
        # Asked about again and again, it is asked about ever more rarely.
        for _ in range(200):
            running.clock.advance(1)
            await running.dispatcher.reaper.tick()
        running.provider.die(machine.id, 1)
        await running.dispatcher.orphan_scan.look()
        await running.dispatcher.reaper.tick()
        failed = await eventually(
            lambda: running.session(session_id), lambda found: found["state"] == "failed"
        )
        assert failed["reason"] == "machine_exited"
