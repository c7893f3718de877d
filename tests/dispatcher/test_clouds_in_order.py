"""One dispatcher with placements at three clouds, at fakes: the first with capacity gives the machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from dispatcher.app import build
from dispatcher.clock import SystemClock
from dispatcher.machines.provider import MachineProvider
from dispatcher.settings import Settings
from tests.bench.ecs import compute_engine_at
from tests.bench.ecs import provider_at as ecs_at
from tests.bench.fly import provider_at as fly_at
from tests.ecs.fake import SUBNETS, FakeEcs
from tests.ecs.tasks import Times as TaskTimes
from tests.fly.fake import FakeFly
from tests.fly.world import IMAGE
from tests.gcp.engine import ZONES, FakeEngine
from tests.gcp.instances import Times as VmTimes


class Clouds:
    """Fakes of ECS, Compute Engine and Fly, whose machines start at once."""

    def __init__(self) -> None:
        self.ecs = FakeEcs(clock=SystemClock(), times=TaskTimes(0.0, 0.0, 0.0, 30.0, 0.0))
        self.engine = FakeEngine(
            SystemClock(), times=VmTimes(provision=0.0, stage=0.0, boot=0.0, stockout=0.0)
        )
        self.fly = FakeFly(SystemClock())
        self.fly.app("bots")
        self.fly.prepare_seconds = self.fly.boot_seconds = 0.0
        self.machines_at: list[str] = []
        """The cloud of each machine, once the fakes are closed."""

    def providers(self) -> dict[str, MachineProvider]:
        return {
            "virginia": ecs_at(self.ecs),
            "netherlands": compute_engine_at(self.engine),
            "overflow": fly_at(self.fly, ("bots",)),
        }

    def fill_aws(self) -> None:
        self.ecs.free = {("FARGATE", zone): 0 for zone in SUBNETS.values()}

    def fill_google(self) -> None:
        self.engine.room = dict.fromkeys(ZONES, 0)

    async def close(self) -> None:
        living = {"ecs": self.ecs.living(), "engine": self.engine.living(), "fly": self.fly.living()}
        self.machines_at = [cloud for cloud, machines in living.items() for _ in machines]
        await asyncio.gather(self.ecs.close(), self.engine.close(), self.fly.close())
        assert [*self.ecs.violations, *self.engine.violations, *self.fly.violations] == []


async def timeline_of_a_start(clouds: Clouds, directory: Path) -> list[dict[str, Any]]:
    """Start a session; return its timeline."""
    settings = Settings.model_validate(
        {"data_dir": directory, "agents": {"echo": {"bot": "/app/bot.py", "image": IMAGE}}}
    )
    made = build(settings, providers=clouds.providers(), environment={})
    transport, url = httpx.ASGITransport(made.app), "http://127.0.0.1:7860"
    async with (
        made.app.router.lifespan_context(made.app),
        httpx.AsyncClient(transport=transport, base_url=url, timeout=60) as client,
    ):
        answer = (await client.post("/start", params={"wait": "started"})).raise_for_status().json()
        events = await client.get(f"/v1/sessions/{answer['sessionId']}/events")
        return events.raise_for_status().json()["events"]


def start(clouds: Clouds, directory: Path) -> list[tuple[str, str]]:
    """Start a session; return its events and their messages, without the machine's."""

    async def go() -> list[dict[str, Any]]:
        try:
            return await timeline_of_a_start(clouds, directory)
        finally:
            await clouds.close()

    events = asyncio.run(go())
    return [(one["event"], one["message"]) for one in events if one["event"].startswith("placement")]


def test_first_placement_gives_the_machine(tmp_path: Path) -> None:
    clouds = Clouds()
    assert start(clouds, tmp_path) == []
    assert clouds.machines_at == ["ecs"]


def test_second_placement_gives_it_where_the_first_has_no_capacity(tmp_path: Path) -> None:
    clouds = Clouds()
    clouds.fill_aws()
    assert start(clouds, tmp_path) == [
        ("placement-changed", "virginia gave no machine; netherlands is asked for it.")
    ]
    assert clouds.machines_at == ["engine"]


def test_third_placement_gives_it_where_the_others_have_no_capacity(tmp_path: Path) -> None:
    clouds = Clouds()
    clouds.fill_aws()
    clouds.fill_google()
    assert start(clouds, tmp_path) == [
        ("placement-changed", "virginia gave no machine; netherlands is asked for it."),
        ("placement-changed", "netherlands gave no machine; overflow is asked for it."),
    ]
    assert clouds.machines_at == ["fly"]
