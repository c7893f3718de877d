"""The store goes away for a while: live calls go on, callers hear of it, and everything settles then."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, StatementError

from bot import protocol
from dispatcher.settings import AgentSettings
from dispatcher.store.database import Database
from dispatcher.store.threads import Threads
from tests.dispatcher.harness import Deployment, ScriptedMachine, deployment, eventually
from tests.patience import PATIENCE
from tests.postgres import Postgres

T = TypeVar("T")


class GoesAway(Threads):
    """Runs transactions, unless it is told that the database is away."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.away = False

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        if self.away:
            raise OperationalError("SELECT 1", {}, Exception("the server closed the connection"))
        return await super().run(work, writes=writes)


class TakesNoWrites(Threads):
    """Runs transactions that read; told that the disk is full, it refuses the others."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.full = False

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        if self.full and writes:
            raise OperationalError("COMMIT", {}, Exception("database or disk is full"))
        return await super().run(work, writes=writes)


class LosesAnswers(Threads):
    """Keeps every transaction, and may say that the database is away all the same."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.loses = False

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        done = await super().run(work, writes=writes)
        if self.loses and writes:
            raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))
        return done


async def active(running: Deployment) -> ScriptedMachine:
    _, machine = await running.reported("active")
    return machine


async def settled(running: Deployment, read: Callable[[], Awaitable[T]], reached: Callable[[T], bool]) -> T:
    """Read until the answer is as it must be; time passes meanwhile, for whoever waits for the store."""
    async with asyncio.timeout(PATIENCE):
        while not reached(found := await read()):
            running.clock.advance(0.5)
            await asyncio.sleep(0.01)
    return found


async def answered(running: Deployment, session_id: str) -> dict[str, Any]:
    answer = await running.http.get(f"/sessions/{session_id}")
    return answer.json() if answer.status_code == 200 else {"state": None, "latency": {"turnMs": []}}


async def says_so(running: Deployment, session_id: str) -> None:
    """Every route says that the store is away, and when to come back."""
    for method, path in [
        ("POST", "/start"),
        ("GET", f"/sessions/{session_id}"),
        ("DELETE", f"/sessions/{session_id}"),
        ("POST", f"/sessions/{session_id}/api/offer"),
        ("GET", f"/v1/sessions/{session_id}/events"),
        ("GET", f"/v1/sessions/{session_id}/events?wait=30"),
        ("GET", "/v1/agents/echo/sessions"),
        ("GET", "/readyz"),
    ]:
        answer = await running.http.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_down"), path
        assert int(answer.headers["retry-after"]) > 0
    assert (await running.http.get("/healthz")).status_code == 200
    assert (await running.http.get("/metrics")).status_code == 200


async def test_a_stop_ends_the_machine_while_the_store_takes_no_writes(tmp_path, caplog):
    runner = TakesNoWrites()

    async with deployment(tmp_path, runner=runner) as running:
        machine = await active(running)
        session_id = machine.session_id or ""
        runner.full = True
        for _ in range(3):
            assert (await running.http.post("/start", json={})).json()["code"] == "store_down"
            answer = await running.http.delete(f"/sessions/{session_id}")
            assert (answer.status_code, answer.json()["status"]) == (200, "terminated")
        await settled(running, lambda: asyncio.sleep(0, running.provider.running), lambda ids: not ids)
        assert (await answered(running, session_id))["state"] == "active"
        runner.full = False
        over = await settled(
            running, lambda: answered(running, session_id), lambda found: found["state"] == "ended"
        )
        assert over["reason"] == "stopped"
    told = [record.message for record in caplog.records if record.name == "dispatcher.store.database"]
    assert told == [
        "the store does not answer: database or disk is full",
        "the store answers again",
    ]


async def test_what_a_machine_says_meanwhile_is_kept_in_order_and_its_channel_stays_open(tmp_path):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running:
        machine = await active(running)
        assert machine.session_id is not None
        runner.away = True
        await machine.send(protocol.Latency(kind="turn", milliseconds=700))
        await machine.send(protocol.ClientDisconnected())
        await machine.send(protocol.Heartbeat(phase="ready", rss_bytes=1, cpu_seconds=1))
        await machine.send(protocol.Heartbeat(phase="ready", rss_bytes=1, cpu_seconds=1))
        await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
        await machine.send(protocol.Latency(kind="turn", milliseconds=900))
        await says_so(running, machine.session_id)
        runner.away = False
        found = await settled(
            running,
            lambda: running.session(machine.session_id or ""),
            lambda found: len(found["latency"]["turnMs"]) == 2,
        )
        assert found["latency"]["turnMs"] == [700, 900]
        kinds = [event["event"] for event in await running.timeline(machine.session_id)]
        assert kinds[-2:] == ["client-disconnected", "client-connected"]
        await machine.send(protocol.ClientDisconnected())
        await running.in_phase(machine.session_id, "ready")


async def test_an_end_is_acknowledged_once_it_is_on_record(tmp_path):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running:
        machine = await active(running)
        runner.away = True
        await machine.send(protocol.Ended(reason="completed", message="Done."))
        receiving = asyncio.create_task(machine.connection.recv())
        for _ in range(10):
            running.clock.advance(1)
            await running.http.get("/healthz")
        assert not receiving.done()
        runner.away = False
        await settled(running, lambda: asyncio.sleep(0), lambda _: receiving.done())
        assert isinstance(protocol.parse_from_dispatcher(receiving.result()), protocol.Acknowledge)
        assert (await running.session(machine.session_id or ""))["reason"] == "completed"


async def test_a_machine_that_connects_meanwhile_is_not_told_to_stop(tmp_path):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running:
        session_id = (await running.start())["sessionId"]
        runner.away = True
        machine = await running.machine_of(session_id)
        assert isinstance(await machine.hello("waiting"), protocol.Welcome)
        await machine.send(protocol.Ready(timings=protocol.Timings()))
        await running.http.get("/healthz")
        runner.away = False
        await settled(running, lambda: answered(running, session_id), lambda found: found["state"] == "ready")
        assert running.provider.stopped == []


async def test_a_machine_that_came_meanwhile_is_written_down(tmp_path):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running:
        running.provider.gate = asyncio.Event()
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await settled(running, lambda: asyncio.sleep(0, running.provider.asked), lambda asked: asked == 1)
        runner.away = True
        running.provider.gate.set()
        await running.http.get("/healthz")
        runner.away = False

        async def machine():
            return await running.dispatcher.store.machine(f"m-{session_id}")

        await settled(running, machine, lambda found: found is not None and found.state == "started")
        assert running.provider.asked == 1


async def test_a_stream_of_events_outlives_it(tmp_path):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running:
        machine = await active(running)
        seen: list[str] = []

        async def follow() -> None:
            path = f"/v1/sessions/{machine.session_id}/events"
            async with running.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as lines:
                async for line in lines.aiter_lines():
                    seen.append(line)

        following = asyncio.create_task(follow())
        await settled(running, lambda: asyncio.sleep(0), lambda _: "event: active" in seen)
        runner.away = True
        running.dispatcher.service._notifier.notify(machine.session_id or "")
        away = ": the store does not answer"
        await settled(running, lambda: asyncio.sleep(0), lambda _: away in seen)
        runner.away = False
        await machine.send(protocol.Ended(reason="completed", message="Done."))
        await settled(running, lambda: asyncio.sleep(0), lambda _: following.done())
        assert "event: ended" in seen


async def test_the_log_says_it_once(tmp_path, caplog):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running:
        machine = await active(running)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            runner.away = True
            for _ in range(20):
                await machine.send(protocol.Latency(kind="turn", milliseconds=700))
                await running.http.get(f"/sessions/{machine.session_id}")
                running.clock.advance(1)
            runner.away = False
            await settled(
                running,
                lambda: running.session(machine.session_id or ""),
                lambda found: len(found["latency"]["turnMs"]) == 20,
            )
        ours = [record for record in caplog.records if record.name.startswith("dispatcher")]
        assert [record.getMessage() for record in ours if record.levelno >= logging.WARNING] == [
            "the store does not answer: the server closed the connection",
            "the store answers again",
        ]


async def test_refused_statement_is_logged_as_a_fault_without_its_values(tmp_path, caplog):
    database = Database(f"sqlite:///{tmp_path / 'refuses.sqlite'}")
    insert, values = sa.text("INSERT INTO nowhere VALUES (:body, :more)"), {"body": "hunter2"}
    try:
        for work in (database.write, database.read):
            with pytest.raises(StatementError) as refused:
                await work(lambda connection: connection.execute(insert, values))
            assert "hunter2" not in str(refused.value)
    finally:
        await database.close()
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage() for record in errors] == ["the database refused a transaction"] * 2
    assert caplog.text.count("INSERT INTO nowhere") >= 2
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_real_database_is_stopped_and_started(tmp_path, postgres: Postgres, postgres_url, mode):
    async with deployment(tmp_path, database_url=postgres_url) as running:
        machine = await active(running)
        session_id = machine.session_id or ""
        await asyncio.to_thread(postgres.stop, mode)
        await machine.send(protocol.Latency(kind="turn", milliseconds=700))
        await says_so(running, session_id)
        await asyncio.to_thread(postgres.start)
        await machine.send(protocol.Latency(kind="turn", milliseconds=900))
        await settled(
            running,
            lambda: answered(running, session_id),
            lambda found: found["latency"]["turnMs"] == [700, 900],
        )
        await machine.send(protocol.Ended(reason="completed", message="Done."))
        assert isinstance(await machine.receive(), protocol.Acknowledge)
        await running.until(session_id, "ended")
        assert (await running.http.get("/readyz")).status_code == 200


async def test_start_is_launched_for_its_key_when_the_reply_of_its_write_was_lost(tmp_path):
    runner = LosesAnswers()
    async with deployment(tmp_path, runner=runner) as running:
        key = {"Idempotency-Key": "call-1"}
        runner.loses = True
        assert (await running.http.post("/start", json={}, headers=key)).status_code == 503
        runner.loses = False
        answer = await running.http.post("/start", json={}, headers=key)
        assert answer.status_code == 200
        assert list(running.provider.specs) == [f"m-{answer.json()['sessionId']}"]
        assert running.provider.asked == 1


async def test_one_that_nobody_comes_back_for_is_closed_and_leaves_nothing(tmp_path):
    runner = LosesAnswers()
    async with deployment(tmp_path, runner=runner) as running:
        runner.loses = True
        assert (await running.http.post("/start", json={})).status_code == 503
        runner.loses = False

        async def found():
            return (await running.http.get("/v1/sessions")).json()["sessions"]

        (closed,) = await settled(running, found, lambda found: found and found[0]["state"] == "failed")
        assert closed["reason"] == "abandoned"
        await settled(running, running.dispatcher.store.live_machines, lambda left: not left.ids)
        assert running.provider.specs == {}


async def test_a_caller_hears_of_what_was_written_although_the_store_failed(tmp_path):
    runner = LosesAnswers()
    async with deployment(tmp_path, runner=runner) as running:
        running.provider.gate = asyncio.Event()
        held = asyncio.create_task(running.http.post("/start", json={}))
        await settled(running, running.dispatcher.store.live_sessions, bool)
        while not running.provider.asked:
            await asyncio.sleep(0.01)
        runner.loses = True
        running.provider.gate.set()
        live = running.dispatcher.store.live_sessions
        await settled(running, live, lambda live: live[0].started_at is not None)
        runner.loses = False

        async def is_answered():
            return held.done()

        await settled(running, is_answered, bool)
        assert held.result().status_code == 200


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_place_in_the_queue_is_given_back_when_caller_goes_without_a_store(tmp_path, hangs_up):
    """Either the caller hangs up, or it hears that the store is away and nothing of its session."""
    runner = GoesAway()

    agents = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), max_sessions=1, max_queued=1)}
    async with deployment(tmp_path, runner=runner, agents=agents) as running:
        await running.start()
        waiting = asyncio.create_task(running.http.post("/start?queue=600", json={}))
        (session_id,) = await eventually(lambda: _queued(running), bool)
        runner.away = True
        if hangs_up:
            waiting.cancel()
        else:
            # As when the bus stands again: whoever waits reads.
            running.dispatcher.notifier.resumed()

        async def is_answered():
            return waiting.done()

        await settled(running, is_answered, bool)
        assert hangs_up or waiting.result().status_code == 503
        runner.away = False
        found = await settled(
            running,
            lambda: running.session(session_id),
            lambda found: found["state"] in ("ended", "failed"),
        )
        assert found["reason"] == ("abandoned" if hangs_up else "stopped")


async def _queued(running: Deployment) -> list[str]:
    listed = (await running.http.get("/v1/sessions?state=queued")).json()["sessions"]
    return [session["sessionId"] for session in listed]
