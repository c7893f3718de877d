"""Stand-ins for an engine: each answers what one test needs, over a socket, as an engine does."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from dispatcher.machines.container.capacity import HOST_SHARE
from dispatcher.machines.container.provider import ContainerProvider
from dispatcher.machines.container.request import DEPLOYMENT_LABEL, MACHINE_LABEL, MEMORY_LABEL
from dispatcher.machines.provider import MachineSpec
from tests.engine_api import Versioned, versionless

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


OF_AN_EMPTY_HOST: dict[str, Any] = {
    "/info": {"MemTotal": 2**33},
    "/containers/json": [],
    "/images/bot/json": {"Id": "1"},
}
"""Path → what an engine answers whose host has 8 GiB, an image of before and no container."""


class FakeEngine(Protocol):
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse: ...


def shown(machine_id: str, **state: Any) -> dict[str, Any]:
    """One container of the deployment, as an engine shows it."""
    labels = {DEPLOYMENT_LABEL: "calls", MACHINE_LABEL: machine_id}
    config = {"Labels": labels, "Tty": False}
    return {"Id": "1", "Name": f"/calls-{machine_id}", "State": state, "Config": config}


def listed(machine_id: str, labels: dict[str, str], state: str = "running") -> dict[str, Any]:
    """One container of the deployment, as an engine lists it."""
    every = {DEPLOYMENT_LABEL: "calls", MACHINE_LABEL: machine_id, **labels}
    return {"Id": machine_id, "Names": [f"/calls-{machine_id}"], "State": state, "Labels": every}


class BusyEngine:
    """Another create of the same name goes on: it has the name, and can be seen only at the third look.

    Args:
        conflict: The status in which it says so: Docker's, or that of Podman 4.3.
    """

    def __init__(self, conflict: int = 409) -> None:
        self.conflict = conflict
        self.looks = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = versionless(request)
        if path in OF_AN_EMPTY_HOST:
            return web.json_response(OF_AN_EMPTY_HOST[path])
        if path == "/containers/create":
            return web.json_response({"message": "that name is already in use"}, status=self.conflict)
        self.looks += 1
        if self.looks < 3:
            return web.json_response({"message": "No such container"}, status=404)
        return web.json_response(shown("m-1", Status="running"))


class SilentEngine(BusyEngine):
    """The name is taken, and who has it cannot be found out: look-ups are not answered."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("/calls-m-1/json"):
            await asyncio.Event().wait()
        return await super().handle(request)


class PullingEngine:
    """Gets its image when it is allowed to, and writes down what is created and started."""

    def __init__(self, room_for: float = 8, pull_fails: str = "") -> None:
        self.room_for = room_for
        """Number of machines that its host's memory is enough for."""
        self.pull_fails = pull_fails
        """Words of a pull after its first step, where it fails."""
        self.listed: list[dict[str, Any]] = []
        """Containers of this deployment."""
        self.changes: list[str] = []
        self.begins = False
        """True if a pull tells of its first step before it may end."""
        self.pulls = asyncio.Event()
        """Set while a pull goes on, or has ended."""
        self.pulled = asyncio.Event()
        """Set if pulls end."""
        self.breaks_off = False
        """True if pulls end in the middle, without a word."""
        self._has_image = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = versionless(request)
        if path == "/info":
            return web.json_response({"MemTotal": self.room_for * SPEC.memory_mb * 2**20 / HOST_SHARE})
        if path == "/containers/json":
            return web.json_response(self.listed)
        if path == "/images/create":
            return await self._pull(request)
        if path.startswith("/images/") and self._has_image:
            return web.json_response({"Id": "1"})
        if request.method == "GET" or self.pull_fails or not self.pulled.is_set():
            return web.json_response({"message": "No such image"}, status=404)
        self.changes.append(path.removeprefix("/containers/") + request.query.get("name", ""))
        return web.json_response({"Id": "1"}, status=201 if path.endswith("/create") else 204)

    async def _pull(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if self.begins:
            await response.write(_line({"status": "Downloading", "id": "layer"}))
        self.pulls.set()
        await self.pulled.wait()
        if self.breaks_off:
            return response
        await response.write(_line({"status": "Download complete", "id": "layer"}))
        self._has_image = not self.pull_fails
        if self.pull_fails:
            failure = {"errorDetail": {"message": self.pull_fails}, "error": self.pull_fails}
            await response.write(_line(failure))
        await response.write_eof()
        return response


def _line(step: dict[str, Any]) -> bytes:
    return f"{json.dumps(step)}\n".encode()


class EngineWithTheUnstarted:
    """Has a container that was created and not started, and its name with it."""

    def __init__(self, **fails: tuple[int, str]) -> None:
        self.state = "created"
        """Empty once it is removed."""
        self.fails = fails
        """Calls that it refuses, of `create`, `look`, `start` and `remove` → the status and the words for it.
        Without any it refuses a create because of the name.
        """
        self.never_answers = ""
        """The one of these calls that it never answers."""
        self.asked: list[str] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = versionless(request)
        if path in OF_AN_EMPTY_HOST:
            return web.json_response(OF_AN_EMPTY_HOST[path])
        if path == "/containers/create":
            status, words = self.fails.get("create", (409, "Conflict. The name is already in use"))
            return web.json_response({"message": words}, status=status)
        if not self.state:
            return web.json_response({"message": "No such container"}, status=404)
        action = {"GET": "look", "POST": "start", "DELETE": "remove"}[request.method]
        self.asked.append(action)
        if action == self.never_answers:
            await asyncio.Event().wait()
        if action in self.fails:
            status, words = self.fails[action]
            return web.json_response({"message": words}, status=status)
        if action == "look":
            machine_id = path.split("/")[2].removeprefix("calls-")
            return web.json_response(shown(machine_id, Status=self.state))
        self.state = {"start": "running", "remove": ""}[action]
        return web.Response(status=204)


class EngineWithTheDead:
    """Has a container that has ended and one that runs, until they are removed."""

    def __init__(self) -> None:
        self.states = {"m-over": "exited", "m-runs": "running"}
        self.fails = False
        """True if it can remove no container and read no log."""
        self.answers_logs = True
        self.answers_removals = asyncio.Event()
        self.answers_removals.set()
        self.removals = 0
        self.never_removes = ""
        """Machine whose removal alone it does not answer."""
        self.answers_stops = asyncio.Event()
        self.answers_stops.set()
        self.stops = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = versionless(request)
        if path == "/containers/json":
            return web.json_response([self._one(machine_id) for machine_id in self.states])
        machine_id = path.split("/")[2].removeprefix("calls-")
        if path.endswith("/json"):
            return web.json_response(shown(machine_id, Status=self.states[machine_id], ExitCode=3))
        if request.method == "DELETE":
            self.removals += 1
            await self.answers_removals.wait()
            if machine_id == self.never_removes:
                await asyncio.Event().wait()
        if path.endswith("/stop"):
            self.stops += 1
            await self.answers_stops.wait()
            return web.Response(status=204)
        if path.endswith("/logs") and not self.answers_logs:
            await asyncio.Event().wait()
        if self.fails:
            return web.json_response({"message": "device or resource busy"}, status=500)
        if request.method == "DELETE":
            del self.states[machine_id]
            return web.Response(status=204)
        return web.json_response({"message": "No such container"}, status=404)

    def _one(self, machine_id: str) -> dict[str, Any]:
        return listed(machine_id, {MEMORY_LABEL: "64"}, self.states[machine_id])


class EngineWithLines:
    """Has a container that runs, with what it has printed.

    After Docker Engine's API (docs.docker.com/reference/api/engine), `ContainerLogs` and, for the stream's
    format, `ContainerAttach`. `tail` counts before `since` does, and `since` takes lines of its moment.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        """Nanoseconds since 1970, and what was printed."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not versionless(request).endswith("/logs"):
            return web.json_response(shown("m-1", Status="running"))
        seconds, _, nanoseconds = request.query["since"].partition(".")
        since = int(seconds) * 10**9 + int(nanoseconds)
        assert request.query["timestamps"].lower() in ("1", "true")
        return web.Response(
            body=b"".join(
                _frame(moment, text)
                for moment, text in self.lines[-int(request.query["tail"]) :]
                if moment >= since
            ),
            content_type="application/vnd.docker.multiplexed-stream",
        )


def _frame(moment: int, text: str) -> bytes:
    at = datetime.fromtimestamp(moment // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    payload = f"{at}.{moment % 10**9:09}Z {text}".encode()
    return struct.pack(">BxxxL", 2, len(payload)) + payload


@asynccontextmanager
async def provider_of(engine: FakeEngine, directory: Path) -> AsyncIterator[ContainerProvider]:
    handle = engine.handle if isinstance(engine, Versioned) else Versioned(engine.handle).handle
    runner = web.ServerRunner(web.Server(handle, handler_cancellation=True))
    await runner.setup()
    await web.UnixSite(runner, str(directory / "engine.sock")).start()
    provider = ContainerProvider(url=f"unix://{directory}/engine.sock", deployment="calls")
    try:
        yield provider
    finally:
        await provider.close()
        await runner.cleanup()
