"""Readiness: what serving needs is tried, and what is missing is named."""

import asyncio
import contextlib
import logging
import os
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from bot import protocol
from dispatcher.agent_images import AgentImages
from dispatcher.bus import Bus, LocalBus
from dispatcher.disk import LEAST_FREE_BYTES, Disk
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import Unreachable
from dispatcher.readiness import BUS_GRACE_SECONDS, Readiness
from dispatcher.sessions.notifier import POLL_SECONDS
from dispatcher.store.store import Store
from tests.dispatcher.harness import (
    Deployment,
    ManualClock,
    ScriptedProvider,
    deployment,
    eventually,
    settings_for,
)


async def problem_of(running: Deployment) -> str | None:
    answer = await running.http.get("/readyz")
    return answer.json()["code"] if answer.status_code == 503 else None


async def test_a_dispatcher_is_not_ready_once_its_sqlite_file_is_deleted_or_replaced(tmp_path, caplog):
    async with deployment(tmp_path) as running:
        assert await problem_of(running) is None
        (file,) = tmp_path.glob("*.sqlite")
        away = file.rename(tmp_path / "away")
        assert await problem_of(running) == "store_lost"
        sqlite3.connect(file).close()
        file.touch()
        assert await problem_of(running) == "store_lost"
        assert str(file) in (await running.http.get("/readyz")).text
        away.rename(file)
        assert await problem_of(running) is None
    told = [record for record in caplog.records if record.name == "dispatcher.readiness"]
    assert [record.levelno for record in told] == [logging.ERROR, logging.WARNING]


async def test_a_dispatcher_is_not_ready_while_its_store_cannot_be_written(tmp_path):
    async with deployment(tmp_path) as running:
        (file,) = tmp_path.glob("*.sqlite")
        # A trigger refuses as a full disk does: statements that change nothing go through.
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.executescript(
                "CREATE TRIGGER full_insert BEFORE INSERT ON loads BEGIN SELECT RAISE(FAIL, 'full'); END;"
                "CREATE TRIGGER full_update BEFORE UPDATE ON loads BEGIN SELECT RAISE(FAIL, 'full'); END;"
            )
        assert await problem_of(running) == "store_down"


@contextlib.contextmanager
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bus's connections are refused; those of the store are not."""

    async def refuse(*_: object, **__: object) -> None:
        raise psycopg.OperationalError("remaining connection slots are reserved")

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.AsyncConnection, "connect", refuse)
        yield


async def test_replica_is_not_ready_but_answers_when_its_bus_is_down_after_a_grace(
    tmp_path, postgres_url, monkeypatch
):
    clock, provider = ManualClock(), ScriptedProvider()
    replicas = {"clock": clock, "provider": provider, "database_url": postgres_url}
    with cut_off(monkeypatch):
        async with deployment(tmp_path, **replicas) as a, deployment(tmp_path, **replicas) as b:
            assert await problem_of(a) is None
            clock.advance(BUS_GRACE_SECONDS)
            assert await problem_of(a) is None, "a blip takes no replica out"
            clock.advance(1)
            assert await problem_of(a) == await problem_of(b) == "bus_down"
            waiting = asyncio.create_task(a.http.post("/start?wait=ready", json={"transport": "webrtc"}))
            await eventually(lambda: asyncio.sleep(0, list(provider.specs)), bool)
            (machine_id,) = provider.specs
            machine = await b.connect(machine_id, machine_id.removeprefix("m-"))
            await machine.hello("waiting")
            await b.in_phase(machine_id.removeprefix("m-"), "waiting")
            await machine.send(protocol.Ready(timings=protocol.Timings()))
            await b.until(machine_id.removeprefix("m-"), "ready")
            await asyncio.sleep(0)
            clock.advance(POLL_SECONDS)
            assert (await waiting).status_code == 200


@contextlib.asynccontextmanager
async def readiness(
    directory: Path, free: int, bus: Bus | None = None, fleet: Fleet | None = None
) -> AsyncIterator[Readiness]:
    store = Store(f"sqlite:///{directory / 'store.sqlite'}")
    await store.open()
    clock = ManualClock()
    disk = Disk([directory], clock, lambda _: free)
    try:
        fleet = fleet or Fleet({"here": ScriptedProvider()}, clock)
        images = AgentImages(settings_for(directory, 7860), fleet, clock)
        trial = Readiness(
            store=store, bus=bus or LocalBus(), fleet=fleet, images=images, clock=clock, disk=disk
        )
        yield trial
        await trial.close()
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("free", "code"), [(LEAST_FREE_BYTES, None), (LEAST_FREE_BYTES - 1, "disk_full"), (0, "disk_full")]
)
async def test_a_dispatcher_without_room_on_its_disk_is_not_ready(tmp_path, free, code):
    async with readiness(tmp_path, free) as trial:
        missing = await trial.missing()
        assert (missing and missing.code) == code
        assert missing is None or str(tmp_path) in missing.message


async def test_a_dispatcher_without_descriptors_is_not_ready(tmp_path):
    async with readiness(tmp_path, LEAST_FREE_BYTES) as trial:
        assert await trial.missing() is None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        # The next few fit, and no more.
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
        try:
            missing = await trial.missing()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert missing is not None
        assert missing.code == "no_descriptors"
        assert await trial.missing() is None


class Telling(ScriptedProvider):
    """Tells whether it can be asked."""

    def __init__(self, fault: Exception | None = None, *, hangs: bool = False) -> None:
        super().__init__()
        self._unable = fault
        self._hangs = hangs
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        if self._hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if self._unable is not None:
            raise self._unable


LOST = Unreachable("the engine is away")


@pytest.mark.parametrize(
    ("providers", "words"),
    [
        ([Telling()], None),
        ([ScriptedProvider()], None),
        ([Telling(LOST), Telling()], None),
        ([Telling(hangs=True), Telling()], None),
        ([Telling(LOST)], "0: the engine is away"),
        ([Telling(LOST), Telling(LOST)], "0: the engine is away; 1: the engine is away"),
    ],
)
async def test_a_dispatcher_is_not_ready_when_no_placement_can_be_asked(tmp_path, providers, words):
    named = {str(number): provider for number, provider in enumerate(providers)}
    async with readiness(tmp_path, LEAST_FREE_BYTES, fleet=Fleet(named, ManualClock())) as trial:
        missing = await trial.missing()
        assert (missing and missing.code) == (words and "no_placement")
        assert missing is None or missing.message == f"No placement can be asked for a machine: {words}."


async def test_many_who_ask_for_readiness_ask_a_placement_once(tmp_path):
    provider = Telling()
    fleet = Fleet({"a": provider}, ManualClock())
    async with readiness(tmp_path, LEAST_FREE_BYTES, fleet=fleet) as trial:
        provider._hangs = True
        waiting = [asyncio.create_task(trial.missing()) for _ in range(20)]
        await eventually(lambda: asyncio.sleep(0, provider.checks), bool)
        assert provider.checks == 1
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
