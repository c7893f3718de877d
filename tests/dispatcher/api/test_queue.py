"""Callers who wait for a slot: over HTTP, as they see it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from dispatcher.domain.model import MachineState
from dispatcher.sessions.service import COME_BACK_SECONDS
from dispatcher.settings import AgentSettings
from dispatcher.store.threads import Threads
from tests.dispatcher.harness import (
    Deployment,
    ManualClock,
    ScriptedProvider,
    deployment,
    eventually,
    pass_time,
)
from tests.patience import PATIENCE

T = TypeVar("T")

ONE_LINE: dict[str, Any] = {
    "agents": {"echo": AgentSettings(bot=Path("echo.py"), max_sessions=1, max_queued=2)}
}


async def end(running: Deployment, session_id: str) -> None:
    assert (await running.http.delete(f"/sessions/{session_id}")).status_code == 200


async def machine_gone(running: Deployment, session_id: str) -> None:
    """Return once it is on record that the session's machine is gone."""
    await eventually(
        lambda: running.dispatcher.store.machine(f"m-{session_id}"),
        lambda machine: machine is not None and machine.state is MachineState.gone,
    )


async def waits(running: Deployment, session_id: str) -> Any:
    return (await running.session(session_id))["queue"]


async def queued(running: Deployment) -> str:
    """The session that waits, once there is one."""
    found = await eventually(lambda: running.http.get("/v1/sessions?state=queued"), _one)
    return found.json()["sessions"][0]["sessionId"]


async def held(running: Deployment, session_id: str, *, by: int) -> None:
    """Return once so many callers wait for it, which nobody outside is told."""
    holders = running.dispatcher.service._holders
    await eventually(lambda: asyncio.sleep(0, holders[session_id]), lambda now: now == by)


async def passing(running: Deployment, seconds: float, step: float = 1.0) -> None:
    """Let time pass in steps, so that whoever wakes up acts before the next one."""
    for _ in range(round(seconds / step)):
        running.clock.advance(step)
        await asyncio.sleep(0.01)


async def test_a_caller_who_may_wait_gets_the_line_that_becomes_free(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        first = (await running.start())["sessionId"]
        waiting = asyncio.create_task(running.start("/start?queue=60"))
        session_id = await queued(running)
        assert await waits(running, session_id) == {"place": 1, "estimatedWaitSeconds": None}
        assert len(running.provider.specs) == 1, "no machine before there is a slot"
        running.clock.advance(30)
        await end(running, first)
        assert (await waiting)["sessionId"] == session_id
        record = await running.session(session_id)
        assert (record["state"], record["queue"]) == ("starting", None)
        assert [event["event"] for event in await running.timeline(session_id)][:2] == [
            "queued",
            "starting",
        ]


async def test_held_starts_are_answered_when_the_dispatcher_exits_and_their_sessions_go_on(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        await running.start()
        waiting = asyncio.create_task(running.start("/start?queue=60"))
        await queued(running)
        running.dispatcher.refuse()
        answer = await asyncio.wait_for(waiting, PATIENCE)
        assert answer["queue"] == {"place": 1, "estimatedWaitSeconds": None}
        assert answer["sessionToken"]
        assert (await running.session(answer["sessionId"]))["state"] == "queued", "it keeps its place"


def _one(answer: httpx.Response) -> bool:
    return len(answer.json()["sessions"]) == 1


async def test_places_and_estimates_count_down_for_those_who_only_asked(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        first = (await running.start())["sessionId"]
        running.clock.advance(40)
        await end(running, first)
        await machine_gone(running, first)
        second = (await running.start())["sessionId"]
        third = await running.start("/start?queue=600&wait=none")
        running.clock.advance(0.001)
        fourth = await running.start("/start?queue=600&wait=none")
        assert third["queue"] == {"place": 1, "estimatedWaitSeconds": 40.0}
        assert fourth["queue"] == {"place": 2, "estimatedWaitSeconds": 80.0}
        full = await running.http.post("/start?queue=600&wait=none", json={})
        assert (full.status_code, full.json()["code"]) == (429, "PCC-AGENT-AT-CAPACITY")
        assert "2 in its queue" in full.json()["detail"]
        assert int(full.headers["retry-after"]) >= 1
        await end(running, second)
        await eventually(lambda: waits(running, fourth["sessionId"]), lambda found: found["place"] == 1)
        await running.until(third["sessionId"], "starting")


async def test_a_line_is_taken_until_its_machine_is_gone_or_had_its_time(tmp_path, monkeypatch):
    """As with a bot that ignores that it is to end."""
    may_stop = asyncio.Event()
    stop = ScriptedProvider.stop

    async def stop_late(self, machine_id, grace):
        await may_stop.wait()
        await stop(self, machine_id, grace)

    monkeypatch.setattr(ScriptedProvider, "stop", stop_late)

    async with deployment(tmp_path, ending_seconds=600.0, **ONE_LINE) as running:
        first = (await running.start())["sessionId"]
        await end(running, first)
        refused = await running.http.post("/start", json={})
        assert (refused.status_code, refused.json()["code"]) == (429, "PCC-AGENT-AT-CAPACITY")
        second = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        assert (await running.session(second))["state"] == "queued"
        assert len(running.provider.specs) == 1
        may_stop.set()
        await running.until(second, "starting")
        may_stop.clear()
        await end(running, second)
        third = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        await running.until(third, "queued")
        running.clock.advance(600)
        await running.until(third, "starting")
        may_stop.set()


async def test_the_agents_say_how_long_a_caller_may_ask_to_wait(tmp_path):
    agents = {
        "echo": AgentSettings(bot=Path("echo.py"), max_queue_seconds=90),
        "busy": AgentSettings(bot=Path("echo.py"), max_queued=0),
    }

    async with deployment(tmp_path, agents=agents) as running:
        listed = (await running.http.get("/v1/agents")).json()["agents"]
        assert {agent["name"]: agent["maxQueueSeconds"] for agent in listed} == {"echo": 90, "busy": 0}
        for agent in listed:
            path, most = f"/v1/public/{agent['name']}/start", agent["maxQueueSeconds"]
            await running.start(f"{path}?wait=none&queue={most}")


async def test_who_gives_up_lets_all_behind_move_and_they_are_told(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        await running.start()
        second = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        running.clock.advance(0.001)
        third = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        path, headers = f"/v1/sessions/{third}/events", {"Accept": "text/event-stream"}
        places = []
        async with asyncio.timeout(PATIENCE), running.http.stream("GET", path, headers=headers) as answer:
            async for line in answer.aiter_lines():
                if line.startswith('data: {"place":'):
                    places.append(json.loads(line.removeprefix("data: "))["place"])
                if places == [2]:
                    await end(running, second)
                elif places:
                    break
        assert places == [2, 1]


async def test_a_stream_tells_of_every_step_in_the_queue(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        first = (await running.start())["sessionId"]
        second = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        running.clock.advance(0.001)
        third = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        frames, seen = [], asyncio.Event()

        async def follow():
            path = f"/v1/sessions/{third}/events"
            headers = {"Accept": "text/event-stream"}
            async with running.http.stream("GET", path, headers=headers) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith(("event:", "data:")):
                        frames.append(line.partition(": ")[2])
                        seen.set()

        async def told(of: str) -> None:
            async with asyncio.timeout(PATIENCE):
                while of not in frames:
                    seen.clear()
                    await seen.wait()

        following = asyncio.create_task(follow())
        await told(json.dumps({"place": 2, "estimatedWaitSeconds": None}, separators=(",", ":")))
        running.clock.advance(10)
        await end(running, first)
        await told(json.dumps({"place": 1, "estimatedWaitSeconds": 10.0}, separators=(",", ":")))
        running.clock.advance(10)
        await end(running, second)
        await told("starting")
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def test_a_step_of_the_queue_is_one_message_however_many_wait(tmp_path, monkeypatch):
    many: dict[str, Any] = {
        "agents": {"echo": AgentSettings(bot=Path("echo.py"), max_sessions=1, max_queued=50)}
    }

    async with deployment(tmp_path, **many) as running:
        first = (await running.start())["sessionId"]
        waiting: list[str] = []
        for _ in range(50):
            running.clock.advance(0.001)
            waiting.append((await running.start("/start?queue=600&wait=none"))["sessionId"])
        told = []
        publish = running.dispatcher.bus.publish

        def counted(topic: str, payload: str, to: str | None = None) -> bool:
            told.append(payload)
            return publish(topic, payload, to)

        monkeypatch.setattr(running.dispatcher.bus, "publish", counted)
        await end(running, first)
        await running.until(waiting[0], "starting")
        await running.settle()
        assert (await waits(running, waiting[-1]))["place"] == 49
        assert told
        assert not {*waiting[1:]} & {*told}


async def test_who_waits_too_long_is_told_so_and_leaves_nothing(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        await running.start()
        waiting = asyncio.create_task(running.http.post("/start?queue=20", json={}))
        session_id = await queued(running)
        answer = await pass_time(running.clock, waiting, step=0.2)
        assert (answer.status_code, answer.json()["code"]) == (429, "PCC-AGENT-AT-CAPACITY")
        assert "within 20 s" in answer.json()["detail"]
        assert (await running.session(session_id))["reason"] == "queue_timeout"
        assert len(running.provider.specs) == 1
        await eventually(running.dispatcher.store.live_machines, lambda found: len(found.ids) == 1)


async def test_who_waited_in_vain_and_comes_back_with_the_same_key_is_told_to_take_another(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        await running.start()

        def start():
            return running.http.post("/start?queue=20", json={}, headers={"Idempotency-Key": "call-1"})

        waiting = asyncio.create_task(start())
        await queued(running)
        assert (await pass_time(running.clock, waiting, step=0.2)).status_code == 429
        again = await start()
        assert (again.status_code, again.json()["code"]) == (502, "queue_timeout")
        assert "Retry-After" not in again.headers


async def wait_and_hang_up(running: Deployment, **headers: str) -> str:
    """A caller who goes away once there is a place in the queue; gives the session."""
    waiting = asyncio.create_task(running.http.post("/start?queue=600", json={}, headers=headers))
    session_id = await queued(running)
    waiting.cancel()
    await asyncio.wait([waiting])
    return session_id


async def test_a_caller_who_hangs_up_frees_the_place(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        await running.start()
        await wait_and_hang_up(running)
        found = await eventually(lambda: running.http.get("/v1/sessions?state=failed"), _one)
        gone = found.json()["sessions"][0]
        assert gone["reason"] == "abandoned"
        following = await running.start("/start?queue=600&wait=none")
        assert following["queue"]["place"] == 1


async def test_a_repeated_request_joins_the_one_that_waits_and_its_hanging_up_ends_nothing(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        first = (await running.start())["sessionId"]
        key = {"Idempotency-Key": "call-1"}
        waiting = asyncio.create_task(running.http.post("/start?queue=600", json={}, headers=key))
        session_id = await queued(running)
        joining = asyncio.create_task(running.http.post("/start?queue=600", json={}, headers=key))
        await held(running, session_id, by=2)
        joining.cancel()
        await held(running, session_id, by=1)
        await passing(running, COME_BACK_SECONDS + 2)
        assert (await waits(running, session_id))["place"] == 1
        await end(running, first)
        assert (await waiting).status_code == 200


async def test_a_caller_with_a_key_finds_its_place_again_and_loses_it_when_it_stays_away(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        await running.start()
        key = {"Idempotency-Key": "call-1"}
        session_id = await wait_and_hang_up(running, **key)
        again = asyncio.create_task(running.http.post("/start?queue=600", json={}, headers=key))
        await held(running, session_id, by=1)
        await passing(running, COME_BACK_SECONDS + 2)
        assert (await waits(running, session_id))["place"] == 1, "who is back keeps it"
        again.cancel()
        await asyncio.wait([again])
        await passing(running, COME_BACK_SECONDS - 2)
        assert (await waits(running, session_id))["place"] == 1
        await eventually(lambda: _later(running, session_id), lambda found: found["state"] == "failed")
        assert (await running.session(session_id))["reason"] == "abandoned"


async def _later(running: Deployment, session_id: str) -> dict[str, Any]:
    running.clock.advance(1)
    return await running.session(session_id)


class FailsLate(Threads):
    """The next write is held until it is let go, and then the database does not answer."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.held: asyncio.Event | None = None
        self.holds = asyncio.Event()

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        if writes and self.held is not None and not self.holds.is_set():
            self.holds.set()
            await self.held.wait()
            raise OperationalError("BEGIN", {}, Exception("the server closed the connection"))
        return await super().run(work, writes=writes)


async def test_a_place_given_up_while_the_store_fails_is_told_to_those_behind_it(tmp_path):
    runner = FailsLate()
    async with deployment(tmp_path, runner=runner, **ONE_LINE) as running:
        await running.start()
        second = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        running.clock.advance(0.001)
        third = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        await running.dispatcher.background.settle()
        url, accept = f"/v1/sessions/{third}/events", {"Accept": "text/event-stream"}
        async with running.http.stream("GET", url, headers=accept) as stream:
            lines = stream.aiter_lines()
            await _until_place(lines, 2)
            runner.held = asyncio.Event()
            running.dispatcher.queue.nudge()
            await runner.holds.wait()
            await end(running, second)
            runner.held.set()
            await _until_place(lines, 1)


async def _until_place(lines: AsyncIterator[str], place: int) -> None:
    async with asyncio.timeout(PATIENCE):
        async for line in lines:
            if line.startswith("data: ") and json.loads(line.removeprefix("data: ")).get("place") == place:
                return
    raise AssertionError(f"the stream ended before place {place}")


async def test_the_whole_deployments_limit(tmp_path):
    agents = {name: AgentSettings(bot=Path("echo.py"), max_sessions=5) for name in ("echo", "other")}
    async with deployment(tmp_path, agents=agents, max_sessions=2) as running:
        first = (await running.start())["sessionId"]
        await running.start("/v1/public/other/start")
        refused = await running.http.post("/v1/public/other/start", json={})
        assert refused.status_code == 429
        assert "2 in the deployment" in refused.json()["detail"]
        waiting = await running.start("/v1/public/other/start?queue=60&wait=none")
        await end(running, first)
        await running.until(waiting["sessionId"], "starting")


@pytest.mark.parametrize(
    ("given", "says"), [("-1", "queue"), ("9999", "queue"), ("soon", "queue"), ("nan", "queue")]
)
async def test_a_wait_that_is_not_allowed_is_refused_by_name(tmp_path, given, says):
    async with deployment(tmp_path, **ONE_LINE) as running:
        answer = await running.http.post(f"/start?queue={given}", json={})
        assert answer.status_code == 400
        assert says in answer.json()["detail"]
        assert running.provider.specs == {}


async def test_who_waits_survives_a_restart_in_order(tmp_path):
    async with deployment(tmp_path, **ONE_LINE) as running:
        first = (await running.start())["sessionId"]
        second = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        running.clock.advance(0.001)
        third = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        provider = running.provider
    async with deployment(tmp_path, provider=provider, **ONE_LINE) as running:
        assert (await waits(running, third))["place"] == 2
        await end(running, first)
        await running.until(second, "starting")
        assert (await waits(running, third))["place"] == 1


async def test_a_line_is_handed_on_after_a_restart_whether_or_not_the_provider_answers(tmp_path, monkeypatch):
    never = asyncio.Event().wait
    monkeypatch.setattr(ScriptedProvider, "get", lambda self, machine_id: never())
    monkeypatch.setattr(ScriptedProvider, "stop", lambda self, machine_id, grace: never())
    clock = ManualClock()
    async with deployment(tmp_path, clock=clock, **ONE_LINE) as running:
        first = (await running.start())["sessionId"]
        second = (await running.start("/start?queue=600&wait=none"))["sessionId"]
        running.dispatcher.queue.close()
        await end(running, first)
        provider = running.provider
    # The machine that nobody can ask about has had its time to be gone.
    clock.advance(60)
    async with deployment(tmp_path, provider=provider, clock=clock, **ONE_LINE) as running:
        await running.until(second, "starting")
