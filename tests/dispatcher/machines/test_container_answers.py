"""What the provider makes of an engine's answers, where they matter and no engine is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from dispatcher.machines.container import UNASKED_LISTINGS, ContainerProvider
from dispatcher.machines.container_body import DEPLOYMENT_LABEL, MACHINE_LABEL, MEMORY_LABEL
from dispatcher.machines.provider import MachineSpec, MachineState

SPEC = MachineSpec(
    id="m-1",
    bot_file="bot.py",
    arguments=(),
    environment={},
    cpu=1,
    memory_mb=512,
    max_duration=timedelta(seconds=60),
    image="bot",
)


class BusyEngine:
    """Another create of the same name goes on: it has the name, and can be seen only at the third look."""

    def __init__(self) -> None:
        self.looks = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.removeprefix("/v1.41")
        if path == "/info":
            return web.json_response({"MemTotal": 2**33})
        if path == "/containers/json":
            return web.json_response([])
        if path == "/containers/create":
            return web.json_response({"message": "Conflict. The name is already in use"}, status=409)
        self.looks += 1
        if self.looks < 3:
            return web.json_response({"message": "No such container"}, status=404)
        labels = {DEPLOYMENT_LABEL: "calls"}
        found = {"Id": "1", "State": {"Status": "running"}, "Config": {"Labels": labels}}
        return web.json_response(found)


class EngineWithTheDead:
    """Has a container that has ended and one that runs, until they are removed."""

    def __init__(self) -> None:
        self.states = {"m-over": "exited", "m-runs": "running"}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.removeprefix("/v1.41")
        if path == "/containers/json":
            return web.json_response([self._one(machine_id) for machine_id in self.states])
        machine_id = path.split("/")[2].removeprefix("calls-")
        if request.method == "DELETE":
            del self.states[machine_id]
            return web.Response(status=204)
        return web.json_response({"message": "No such container"}, status=404)

    def _one(self, machine_id: str) -> dict[str, Any]:
        labels = {DEPLOYMENT_LABEL: "calls", MACHINE_LABEL: machine_id, MEMORY_LABEL: "64"}
        return {"Id": machine_id, "State": self.states[machine_id], "Labels": labels}


@asynccontextmanager
async def provider_of(
    engine: BusyEngine | EngineWithTheDead, directory: Path
) -> AsyncIterator[ContainerProvider]:
    runner = web.ServerRunner(web.Server(engine.handle))
    await runner.setup()
    await web.UnixSite(runner, str(directory / "engine.sock")).start()
    provider = ContainerProvider(url=f"unix://{directory}/engine.sock", deployment="calls")
    try:
        yield provider
    finally:
        await provider.close()
        await runner.cleanup()


def test_a_name_that_is_taken_is_looked_for_until_its_container_is_there(tmp_path: Path) -> None:
    async def run() -> None:
        engine = BusyEngine()
        async with provider_of(engine, tmp_path) as provider:
            status = await provider.create(SPEC)
            assert (status.id, status.state) == ("m-1", MachineState.started)
            assert engine.looks == 3

    asyncio.run(run())


def test_a_container_that_has_ended_and_nobody_asks_for_is_removed_in_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        engine = EngineWithTheDead()
        async with provider_of(engine, tmp_path) as provider:
            for number in range(1, UNASKED_LISTINGS + 1):
                assert "m-over" in engine.states, f"before listing {number}"
                assert [status.id async for status in provider.list()] == ["m-runs"]
            assert engine.states == {"m-runs": "running"}
            # A machine that ends later has as much time of its own.
            engine.states["m-runs"] = "exited"
            assert [status async for status in provider.list()] == []
            assert "m-runs" in engine.states

    asyncio.run(run())
