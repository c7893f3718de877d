"""Starts whose answer a fault keeps back: their callers do not know the session, so it ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from dispatcher.settings import AgentSettings
from dispatcher.store.threads import Threads
from tests.dispatcher.api.test_offers import OFFER, machine_of_the_offer
from tests.dispatcher.harness import Deployment, deployment, eventually, pass_time
from tests.dispatcher.test_outage import GoesAway

T = TypeVar("T")

AWAY = OperationalError("SELECT 1", {}, Exception("the server closed the connection"))


class FailsReads(Threads):
    """Runs transactions. From the next write on, every read raises `fault`, until that is None again."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.fault: Exception | None = None
        self._written = False

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        if self.fault is not None and self._written and not writes:
            raise self.fault
        done = await super().run(work, writes=writes)
        self._written = self._written or (writes and self.fault is not None)
        return done


async def sessions(running: Deployment) -> list[dict[str, Any]]:
    return (await running.http.get("/v1/sessions")).json()["sessions"]


async def one_over(running: Deployment) -> dict[str, Any]:
    (session,) = await sessions(running)
    await eventually(
        lambda: running.session(session["sessionId"]), lambda found: found["state"] in ("ended", "failed")
    )
    return await running.session(session["sessionId"])


@contextlib.asynccontextmanager
async def cancellable(running: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the same app without the server: to cancel a call cancels the request in the app."""
    transport = httpx.ASGITransport(app=running.dispatcher.app)
    async with httpx.AsyncClient(transport=transport, base_url=running.url) as http:
        yield http


async def cancelled(call: asyncio.Task[httpx.Response]) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize(("fault", "status"), [(AWAY, 503), (RuntimeError("a fault of ours"), 500)])
async def test_offer_session_ends_when_the_store_raises_before_the_answer(tmp_path, fault, status):
    runner = FailsReads()

    async with deployment(tmp_path, runner=runner) as running:
        runner.fault = fault
        calling = asyncio.create_task(running.http.post("/api/offer", json=OFFER))
        assert (await pass_time(running.clock, calling)).status_code == status
        runner.fault = None
        assert (await one_over(running))["reason"] == "stopped"


async def test_offer_session_ends_when_its_request_is_cancelled(tmp_path):
    async with deployment(tmp_path) as running, cancellable(running) as http:
        calling = asyncio.create_task(http.post("/api/offer", json=OFFER))
        machine = await machine_of_the_offer(running)
        await machine.receive()
        await cancelled(calling)
        assert (await one_over(running))["reason"] == "stopped"
        await running.settle()
        assert running.provider.running == []


async def test_offers_session_ends_when_request_is_cancelled_twice_without_a_store(tmp_path):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running, cancellable(running) as http:
        calling = asyncio.create_task(http.post("/api/offer", json=OFFER))
        machine = await machine_of_the_offer(running)
        await machine.receive()
        runner.away = True
        calling.cancel()
        is_unanswered = running.dispatcher.terminator.is_unanswered
        await eventually(lambda: asyncio.sleep(0, is_unanswered(machine.session_id or "")), bool)
        assert not calling.done(), "it waits for the end of the session"
        await cancelled(calling)
        runner.away = False
        await running.settle()
        assert (await one_over(running))["reason"] == "stopped"
        assert running.provider.running == []


async def test_offer_is_answered_within_a_limit_when_the_store_stays_away(tmp_path):
    runner = GoesAway()

    async with deployment(tmp_path, runner=runner) as running:
        calling = asyncio.create_task(running.http.post("/api/offer", json=OFFER))
        machine = await machine_of_the_offer(running)
        runner.away = True
        await machine.answer({"sdp": "none"})
        assert (await pass_time(running.clock, calling)).status_code == 502
        runner.away = False
        await running.settle()
        assert (await one_over(running))["reason"] == "stopped"


@pytest.mark.parametrize(("key", "stays"), [({}, False), ({"Idempotency-Key": "call-1"}, True)])
async def test_session_ends_when_its_request_is_cancelled_without_a_key(tmp_path, key, stays):
    async with deployment(tmp_path) as running, cancellable(running) as http:
        running.provider.gate = asyncio.Event()
        calling = asyncio.create_task(http.post("/start", json={}, headers=key))
        await eventually(lambda: asyncio.sleep(0, running.provider.asked), bool)
        await cancelled(calling)
        running.provider.gate.set()
        if stays:
            again = await running.http.post("/start", json={}, headers=key)
            assert again.status_code == 200
            assert len(await sessions(running)) == 1
        else:
            assert (await one_over(running))["reason"] == "stopped"
            await running.settle()
            assert running.provider.running == []


async def test_queued_session_ends_when_its_place_cannot_be_read(tmp_path):
    runner = FailsReads()
    agents = {"echo": AgentSettings(bot=Path("echo.py"), max_sessions=1)}

    async with deployment(tmp_path, runner=runner, agents=agents) as running:
        first = (await running.start())["sessionId"]
        runner.fault = AWAY
        assert (await running.http.post("/start?queue=60", json={})).status_code == 503
        runner.fault = None
        await running.settle()
        (left,) = [each for each in await sessions(running) if each["sessionId"] != first]
        assert (left["state"], left["reason"]) == ("failed", "abandoned")
