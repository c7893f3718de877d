"""A dispatcher with the settings that the stack gives it starts sessions at a fake of Compute Engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import build
from dispatcher.clock import SystemClock
from dispatcher.machines.compute_engine.settings import ComputeEngineShared
from dispatcher.machines.settings import ProviderContext
from dispatcher.settings import Settings
from tests.fly.wire import InProcess
from tests.gcp.engine import PROJECT, ZONES, FakeEngine
from tests.gcp.instances import Times
from tests.gcp.server import TOKEN
from tests.stacks.aws.graph import Graph
from tests.stacks.gcp.test_program import graph, told

AGENTS = {"echo": {"bot": "bot/agents/echo.py", "memoryMb": 2048, "env": ["ECHO_KEY"]}}


class Google(httpx.AsyncBaseTransport):
    """The metadata server of the dispatcher's instance, and Compute Engine behind it."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = InProcess(engine)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host not in ("metadata.google.internal", "169.254.169.254"):
            assert request.url.host == "compute.googleapis.com"
            return await self._engine.handle_async_request(request)
        headers = {"metadata-flavor": "Google", "content-type": "application/json"}
        path = request.url.path.removeprefix("/computeMetadata/v1/").strip("/")
        if path.endswith("/token"):
            given = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            return httpx.Response(200, json=given, headers=headers)
        if path.startswith("instance/service-accounts/"):
            account = {"email": "dispatcher@example.com", "scopes": [], "aliases": ["default"]}
            return httpx.Response(200, json=account, headers=headers)
        text = {"project/project-id": PROJECT, "universe/universe-domain": "googleapis.com", "": ""}.get(path)
        return httpx.Response(404 if text is None else 200, text=text or "", headers=headers)


@pytest.fixture(scope="module")
def stack() -> Graph:
    found = graph(agents=AGENTS, gcp={"project": PROJECT, "region": ZONES[0][:-2], "zones": ["a", "b"]})
    assert found.error == ""
    return found


def fake_of(stack: Graph) -> FakeEngine:
    """Return Compute Engine with the stack's template, as the API has it."""
    engine = FakeEngine(SystemClock(), times=Times(provision=0.0, stage=0.0, boot=0.0, stockout=0.0))
    inputs = stack.inputs("bots-echo-template")
    scheduling = inputs["scheduling"]
    (interface,) = inputs["networkInterfaces"]
    engine.templates = {
        "regions/europe-west4/instanceTemplates/switchboard-prod-echo-0000000": {
            "machineType": inputs["machineType"],
            "labels": inputs["labels"],
            "tags": {"items": inputs["tags"]},
            "metadata": {"items": [{"key": key, "value": text} for key, text in inputs["metadata"].items()]},
            "scheduling": {key: scheduling[key] for key in ("onHostMaintenance", "automaticRestart")},
            "networkInterfaces": [{"subnetwork": interface["subnetwork"]}],
            "serviceAccounts": [inputs["serviceAccount"]],
        }
    }
    return engine


async def start(settings: Settings, engine: FakeEngine) -> dict[str, Any]:
    (name, placement), *_ = settings.placements.items()
    clock = SystemClock()
    context = ProviderContext(clock, ComputeEngineShared(), settings.data_dir, http=Google(engine))
    made = build(settings, clock=clock, providers={name: placement.build(context)}, environment={})
    transport, url = httpx.ASGITransport(made.app), str(settings.public_url)
    async with (
        made.app.router.lifespan_context(made.app),
        httpx.AsyncClient(transport=transport, base_url=url, timeout=60) as client,
    ):
        key = {"Authorization": "Bearer sk_test"}
        answer = await client.post("/start", params={"wait": "started"}, headers=key, json={})
    await engine.close()
    return answer.raise_for_status().json()


def settings_of(stack: Graph, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the dispatcher's settings, with a store of its own in the place of Cloud SQL."""
    for name, value in told(stack).items():
        if name not in ("SWITCHBOARD_DATABASE_URL", "SWITCHBOARD_DATA_DIR"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("SWITCHBOARD_DATA_DIR", str(directory))
    return Settings()  # type: ignore[call-arg]


def test_session_starts_a_vm_from_the_stacks_template(
    stack: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake_of(stack)
    answer = asyncio.run(start(settings_of(stack, tmp_path, monkeypatch), engine))
    assert engine.violations == []
    (vm,) = engine.vms
    assert (vm.zone, vm.name) == (ZONES[0], f"switchboard-prod-m-{answer['sessionId']}")
    metadata = {one["key"]: one["value"] for one in vm.shape["metadata"]["items"]}
    assert metadata["user-data"] == stack.inputs("bots-echo-template")["metadata"]["user-data"]
    assert json.loads(metadata["switchboard-command"])[:2] == ["timeout", "--kill-after=10"]
    assert "hunter2" not in json.dumps(vm.shape), "the agent's variables come from Secret Manager"
    assert vm.shape["scheduling"]["instanceTerminationAction"] == "DELETE"
    condition = stack.inputs("dispatcher-bots-machines")["condition"]["expression"]
    assert 'startsWith("switchboard-prod-m-")' in condition, "the dispatcher may make this VM"


def test_session_starts_in_the_next_zone_when_the_first_has_no_capacity(
    stack: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake_of(stack)
    engine.room = {ZONES[0]: 0}
    asyncio.run(start(settings_of(stack, tmp_path, monkeypatch), engine))
    assert [vm.zone for vm in engine.vms if vm.ran_since is not None] == [ZONES[1]]
