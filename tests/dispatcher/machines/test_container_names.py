"""Two creates of one machine, as the engine's answers tell them: no engine is needed, only its words."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from aiohttp import web

from dispatcher.machines.container import ContainerProvider
from dispatcher.machines.container_body import DEPLOYMENT_LABEL
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


def test_a_name_that_is_taken_is_looked_for_until_its_container_is_there(tmp_path: Path) -> None:
    async def run() -> None:
        engine = BusyEngine()
        runner = web.ServerRunner(web.Server(engine.handle))
        await runner.setup()
        await web.UnixSite(runner, str(tmp_path / "engine.sock")).start()
        provider = ContainerProvider(url=f"unix://{tmp_path}/engine.sock", deployment="calls")
        try:
            status = await provider.create(SPEC)
            assert (status.id, status.state) == ("m-1", MachineState.started)
            assert engine.looks == 3
        finally:
            await provider.close()
            await runner.cleanup()

    asyncio.run(run())
