"""An engine that writes down what it is asked, and a proxy before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from dispatcher.engine_proxy.proxy import CALL_SECONDS, Proxy, serving
from dispatcher.engine_proxy.rules import Rules
from dispatcher.engine_proxy.settings import ProxySettings
from dispatcher.machines.container.request import (
    DEPLOYMENT_LABEL,
    MACHINE_LABEL,
    MEMORY_LABEL,
    Facts,
    Place,
    body,
)
from tests.engine_api import versionless
from tests.patience import PATIENCE
from tests.ports import free_port

CREATE = "/v1.41/containers/create?name=calls-m-1"
IMAGE = "bots/echo:1"
SETTINGS = ProxySettings(
    host="127.0.0.1",
    deployment="calls",
    network="machines",
    images=(IMAGE, "bots/plain", "registry.example/bot@sha256:" + "0" * 64),
    variables=("A", "OPENAI_API_KEY"),
    max_cpu=2,
    max_memory_mb=2048,
    max_seconds=3700,
    max_containers=6,
)
FACTS = Facts("m-1", IMAGE, 500_000_000, 512, 3630, ("--session-id", "1"), ("HOME=/tmp", "A=b=c"))


def wanted(facts: Facts = FACTS) -> dict[str, Any]:
    """Return the provider's create request."""
    return body(Place("calls", "machines"), facts)


def listed(machine_id: str, state: str = "running", memory_mb: int = 512) -> dict[str, Any]:
    """A container of this deployment, as the engine lists it."""
    labels = {DEPLOYMENT_LABEL: "calls", MACHINE_LABEL: machine_id, MEMORY_LABEL: str(memory_mb)}
    names = [f"/calls-{machine_id}"]
    return {"Id": f"id-of-{machine_id}", "Names": names, "State": state, "Labels": labels, "Ports": []}


class RecordingEngine:
    """Knows two containers: one of this deployment, which ends as soon as it is started, and one of somebody
    else's with a name like ours."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.listed: list[dict[str, Any]] = []
        """Containers of this deployment, but for the one that it can show."""
        self.creates = asyncio.Event()
        """Set if it answers creates."""
        self.creates.set()
        self.listings = asyncio.Event()
        """Set if it answers listings."""
        self.listings.set()
        self.looks = asyncio.Event()
        """Set if it answers what it is asked of one container."""
        self.looks.set()
        self.mixed_up: dict[str, str] = {}
        """Name of a container → name of the one of this deployment that it shows in its place."""
        self.given_up: list[str] = []
        """Paths of what it was asked and nobody waits for any more."""
        self.fails = False
        self.newest = "1.41"
        """Version of the API that it has."""
        self.refuses = ""
        """Its words to any call in a version, where it refuses them."""
        self.lacks: set[str] = set()
        """Images that it does not have, until it has pulled them."""
        self.cuts = False
        """True if it breaks off in the middle of a pull."""
        self.starts = asyncio.Event()
        """Set if it answers starts."""
        self.starts.set()
        self.network: dict[str, Any] = {}
        """The one that bots are in."""
        self.status = "created"
        self.labels: dict[str, str] = {}
        """Of its images."""

    def container(self, name: str) -> dict[str, Any] | None:
        name = self.mixed_up.get(name, name)
        ours = dict.fromkeys(("calls-m-1", "id-of-calls-m-1", "calls-m-2"), "calls")
        deployment = {**ours, "calls-m-other": "other"}.get(name)
        if deployment is None:
            return None
        return {
            "Id": f"id-of-{name.removeprefix('id-of-')}",
            "Name": f"/{name.removeprefix('id-of-')}",
            "State": {"Status": self.status, "ExitCode": 3, "OOMKilled": False, "Pid": 7},
            "Config": {
                "Labels": {DEPLOYMENT_LABEL: deployment, MACHINE_LABEL: "m-1"},
                "Tty": False,
                "Env": ["SWITCHBOARD_MACHINE_TOKEN=secret"],
            },
            "HostConfig": {"Memory": 2**29, "Binds": None},
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.given_up.append(request.path)
            raise

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        content = await request.read()
        self.asked.append((request.method, request.raw_path, content))
        path = versionless(request)
        parts = path.strip("/").split("/")
        if self.fails:
            return web.json_response({"message": "no space"}, status=500)
        if path == "/_ping":
            return web.Response(text="OK", headers={"Api-Version": self.newest})
        if self.refuses and path != request.path:
            return web.json_response({"message": self.refuses}, status=400)
        if path == "/info":
            return web.json_response({"MemTotal": 2**33, "PidsLimit": False, "Name": "the-host"})
        if path.startswith("/networks/"):
            return web.json_response(self.network)
        if path == "/containers/create":
            await self.creates.wait()
            image = json.loads(content)["Image"]
            if image in self.lacks:
                return web.json_response({"message": f"No such image: {image}"}, status=404)
            return web.json_response({"Id": "id-of-calls-m-1", "Warnings": []}, status=201)
        if path == "/containers/json":
            await self.listings.wait()
            return web.json_response(self.listed)
        if parts[-1] == "start":
            await self.starts.wait()
            self.status = "exited"
        if self.cuts and parts[0] == "images":
            return await _cut(request)
        if path == "/images/create":
            # As the provider and the proxy say it: whole, with its tag.
            self.lacks.discard(request.query["fromImage"])
            return web.Response(text='{"status": "Download complete"}\n', content_type="application/json")
        if parts[0] == "images" and "/".join(parts[1:-1]) in self.lacks:
            return web.json_response({"message": "No such image"}, status=404)
        if parts[0] == "images":
            config = {"Env": ["A=b"], "Labels": {"of": "its maker", **self.labels}}
            return web.json_response({"Id": "sha256:1", "Config": config})
        if len(parts) > 1 and (found := self.container(parts[1])) is not None:
            if parts[-1] == "json":
                await self.looks.wait()
            return web.json_response(found) if parts[-1] == "json" else web.Response(status=204)
        return web.json_response({"message": f"No such container: {path}"}, status=404)


async def _cut(request: web.BaseRequest) -> web.StreamResponse:
    """An answer that has begun and has no end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"status": "Pulling fs layer", "id": "1"}\n')
    assert request.transport is not None
    # What is written is sent first.
    request.transport.close()
    return response


class World:
    """A proxy at `url`, and what its engine was asked."""

    def __init__(self, engine: RecordingEngine, proxy: Proxy, port: int) -> None:
        self.engine = engine
        self.proxy = proxy
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def changed(self) -> list[tuple[str, str]]:
        """Calls that the engine was asked but for look-ups."""
        return [(method, path) for method, path, _ in self.engine.asked if method != "GET"]

    async def call(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        data = json.dumps(content).encode() if isinstance(content, dict) else content
        return await self.raw(f"{method} {path} HTTP/1.1\r\nHost: x", data)

    async def leave_after(self, method: str, path: str, content: Any, seen: Callable[[], bool]) -> None:
        """A caller who hangs up once something can be seen at the engine."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(content).encode() if content is not None else b""
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        )
        async with asyncio.timeout(PATIENCE):
            while not seen():
                await self.call("GET", "/_ping")
        writer.close()

    async def raw(self, head: str, content: bytes | None = None) -> tuple[int, Any]:
        """A request exactly as it is written; the answer's status and its JSON."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        length = f"\r\nContent-Length: {len(content)}" if content is not None else ""
        writer.write(f"{head}{length}\r\nConnection: close\r\n\r\n".encode() + (content or b""))
        answer = await reader.read()
        writer.close()
        first, _, rest = answer.partition(b"\r\n")
        said = rest.partition(b"\r\n\r\n")[2]
        try:
            return int(first.split()[1]), json.loads(said)
        except ValueError:
            return int(first.split()[1]), said


@asynccontextmanager
async def world(
    directory: Path,
    call_seconds: float = CALL_SECONDS,
    settings: ProxySettings = SETTINGS,
    firewall: Path | None = None,
) -> AsyncIterator[World]:
    engine = RecordingEngine()
    runner = web.ServerRunner(web.Server(engine.handle, handler_cancellation=True))
    await runner.setup()
    socket = directory / "engine.sock"
    await web.UnixSite(runner, str(socket)).start()
    port = free_port()
    try:
        async with serving(Rules(settings), socket, "127.0.0.1", port, call_seconds, firewall) as proxy:
            yield World(engine, proxy, port)
    finally:
        await runner.cleanup()
