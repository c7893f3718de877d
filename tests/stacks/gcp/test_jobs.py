"""Agents with Cloud Run jobs: the stack's resources, a session at the fake, and the end of executions."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import build
from dispatcher.clock import SystemClock
from dispatcher.configured import context_of
from dispatcher.machines.cloud_run_jobs.settings import CloudRunJobsPlacement
from dispatcher.machines.compute_engine.settings import ComputeEnginePlacement
from stacks.config import parse
from stacks.errors import ConfigError
from stacks.gcp.ending import END_SECONDS, GcpError
from stacks.gcp.executions import DEPLOYMENT_VARIABLE, MACHINE_VARIABLE, Executions
from tests.fly.wire import InProcess
from tests.gcp.executions import Job, Times
from tests.gcp.run import PARENT, PROJECT, REGION, FakeRun
from tests.gcp.server import TOKEN
from tests.stacks.aws.graph import Graph
from tests.stacks.gcp.test_program import CHECKOUT, config, container, graph, told
from tests.stacks.gcp.test_starts import settings_of
from tests.stacks.planning import plan_of

AGENTS: dict[str, Any] = {
    "phone": {
        "bot": "bot/agents/echo.py",
        "transports": ["websocket"],
        "memoryMb": 2048,
        "env": ["ECHO_KEY"],
    },
    "page": {"bot": "bot/agents/echo.py", "memoryMb": 2048},
}
GCP = {"project": PROJECT, "region": REGION}
JOB = "switchboard-prod-j-phone"


@pytest.fixture(scope="module")
def stack() -> Graph:
    found = graph(agents=AGENTS, gcp=GCP)
    assert found.error == ""
    return found


class Google(httpx.AsyncBaseTransport):
    """The metadata server's token, and Cloud Run."""

    def __init__(self, run: FakeRun) -> None:
        self._run = InProcess(run)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "run.googleapis.com":
            return await self._run.handle_async_request(request)
        headers = {"metadata-flavor": "Google", "content-type": "application/json"}
        path = request.url.path
        if path.endswith("/token"):
            given = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            return httpx.Response(200, json=given, headers=headers)
        if "service-accounts" in path:
            return httpx.Response(200, json={"email": "d@example.com", "scopes": []}, headers=headers)
        text = {"project-id": PROJECT, "universe-domain": "googleapis.com"}.get(path.rpartition("/")[2], "")
        return httpx.Response(200, text=text, headers=headers)


def test_agent_without_udp_has_a_job_and_others_have_vms(
    stack: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings_of(stack, tmp_path, monkeypatch)
    assert found.agents["phone"].placements == ("gcp-jobs",)
    assert found.agents["page"].placements == ("gcp",)
    vms, jobs = found.placements["gcp"], found.placements["gcp-jobs"]
    assert isinstance(vms, ComputeEnginePlacement)
    assert isinstance(jobs, CloudRunJobsPlacement)
    assert list(vms.templates) == ["page"]
    assert jobs.jobs == {"phone": JOB}
    assert "a Cloud Run job with 1 vCPU and 2048 MB" in stack.result["prices"]["phone"]["of"]
    assert stack.result["bots"] == [f"{PROJECT}:switchboard-prod", f"{PROJECT}:{REGION}/switchboard-prod"]
    assert {"machines", "executions"} <= set(stack.resources["dispatcher-service"].dependencies)


def test_job_has_one_attempt_and_its_secrets_by_reference(stack: Graph) -> None:
    inputs = stack.inputs("jobs-phone-job")
    task = inputs["template"]["template"]
    (one,) = task["containers"]
    assert (task["maxRetries"], inputs["template"]["taskCount"]) == (0, 1)
    assert one["commands"] == ["/usr/bin/env"]
    (variable,) = one["envs"]
    assert variable["name"] == "ECHO_KEY"
    secret = stack.inputs("jobs-phone-echo-key")
    assert variable["valueSource"]["secretKeyRef"]["secret"] == secret["secretId"]
    assert "hunter2" not in json.dumps(inputs)


def test_dispatcher_may_run_the_jobs_and_find_executions(stack: Graph) -> None:
    on_job = stack.inputs("dispatcher-jobs-phone-job")
    assert on_job["name"] == JOB
    allowed = stack.inputs("jobs-jobs-role")["permissions"]
    assert "run.jobs.runWithOverrides" in allowed
    assert not [one for one in allowed if one.startswith("run.jobs.") and "run" not in one.split(".")[2]]
    assert "run.jobs.run" not in stack.inputs("jobs-executions-role")["permissions"]


def test_session_of_an_agent_with_a_job_is_an_execution(
    stack: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(stack, tmp_path, monkeypatch)
    run = FakeRun(SystemClock(), times=Times(0.0, 0.0, 0.0))
    run.jobs = {f"{PARENT}/jobs/{JOB}": Job(f"{PARENT}/jobs/{JOB}")}
    clock = SystemClock()
    context = replace(context_of(settings, "gcp-jobs", clock), http=Google(run))
    vms = replace(context_of(settings, "gcp", clock), http=httpx.MockTransport(lambda _: httpx.Response(404)))
    providers = {
        "gcp-jobs": settings.placements["gcp-jobs"].build(context),
        "gcp": settings.placements["gcp"].build(vms),
    }

    async def start() -> httpx.Response:
        made = build(settings, clock=clock, providers=providers, environment={})
        transport, url = httpx.ASGITransport(made.app), str(settings.public_url)
        async with (
            made.app.router.lifespan_context(made.app),
            httpx.AsyncClient(transport=transport, base_url=url, timeout=60) as client,
        ):
            key = {"Authorization": "Bearer sk_test"}
            path = "/v1/public/phone/start"
            answer = await client.post(path, params={"wait": "started"}, headers=key, json={})
        await run.close()
        return answer

    answer = asyncio.run(start()).raise_for_status().json()
    (execution,) = run.executions
    assert execution.env["SWITCHBOARD_MACHINE_ID"] == f"m-{answer['sessionId']}"
    assert execution.env["SWITCHBOARD_DEPLOYMENT"] == "switchboard-prod"
    assert run.violations == []


@pytest.mark.parametrize("transport", ["webrtc", "daily"])
def test_job_is_refused_for_an_agent_over_udp(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    agent = {"bot": "bot/agents/echo.py", "transports": [transport]}
    given = config(agents={"echo": agent}, gcp={"machines": "job"})
    words = f"gcp.machines: 'job' is refused, since the agent 'echo' offers {transport}, whose audio"
    with pytest.raises(ConfigError, match=words):
        plan_of(parse(given, project="switchboard", checkout=CHECKOUT, stack="prod"))


def test_job_that_would_be_too_large_is_refused() -> None:
    given = config(agents={"phone": {**AGENTS["phone"], "cpu": 16}})
    with pytest.raises(ConfigError, match=r"cpu 16 .* allowed: at most 8 vCPU with 32768 MB"):
        plan_of(parse(given, project="switchboard", checkout=CHECKOUT, stack="prod"))


def test_agent_without_udp_may_have_vms(stack: Graph) -> None:
    found = graph(agents=AGENTS, gcp={**GCP, "machines": "vm"})
    assert found.error == ""
    assert {"bots-phone-template", "bots-page-template"} <= set(found.resources)
    assert not found.of_type("gcp:cloudrunv2/job:Job")
    assert container(found)["image"] == container(stack)["image"]


def test_jobs_alone_need_no_template() -> None:
    found = graph(agents={"phone": AGENTS["phone"]}, gcp=GCP)
    assert found.error == ""
    assert list(json.loads(told(found)["SWITCHBOARD_PLACEMENTS"])) == ["gcp-jobs"]


def execution(number: int, deployment: str, *, ended: bool = False) -> dict[str, Any]:
    env = [
        {"name": DEPLOYMENT_VARIABLE, "value": deployment},
        {"name": MACHINE_VARIABLE, "value": f"m-{number}"},
    ]
    made: dict[str, Any] = {
        "name": f"{PARENT}/jobs/x/executions/x-{number}",
        "template": {"containers": [{"env": env}]},
    }
    return made | ({"completionTime": "2026-11-25T00:00:00Z"} if ended else {})


class Run:
    """Executions that end so many lists after they are cancelled, two on a page."""

    def __init__(self, looks: int = 2) -> None:
        self.shown = [execution(1, "prod"), execution(2, "other"), execution(3, "prod", ended=True)]
        self.looks, self.now, self.refuses = looks, 0.0, 0
        self.cancelled: list[str] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.refuses:
            return httpx.Response(self.refuses, json={"error": {"message": "not you"}})
        if request.method == "POST":
            self.cancelled.append(request.url.path.rpartition("/")[2])
            return httpx.Response(200, json={})
        assert request.url.path == f"/v2/projects/{PROJECT}/locations/{REGION}/jobs/-/executions"
        if request.url.params.get("pageToken") == "2":
            return httpx.Response(200, json={"executions": self.shown[2:]})
        if self.cancelled and self.looks >= 0:
            self.looks -= 1
            if self.looks == 0:
                self.shown[0]["completionTime"] = "2026-11-25T00:00:00Z"
        return httpx.Response(200, json={"executions": self.shown[:2], "nextPageToken": "2"})

    def executions(self) -> Executions:
        client = httpx.Client(base_url="http://run.test/v2/", transport=httpx.MockTransport(self.handle))
        return Executions(client, PROJECT, REGION, "prod", lambda: "token")

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def end_all(self) -> None:
        self.executions().end_all(self.sleep, lambda: self.now)


def test_executions_of_the_deployment_are_cancelled_and_waited_for() -> None:
    run = Run()
    run.end_all()
    assert run.cancelled == ["x-1:cancel"]


def test_execution_that_does_not_end_is_told() -> None:
    run = Run(looks=10_000)
    with pytest.raises(
        GcpError, match=rf"1 executions of the deployment prod did not end within {END_SECONDS}"
    ):
        run.end_all()


def test_refusal_is_told_in_googles_words() -> None:
    run = Run()
    run.refuses = 403
    with pytest.raises(GcpError, match=r"answered GET .*/executions with 403: not you"):
        run.end_all()


def test_machine_is_found_by_its_variable() -> None:
    assert [(machine, runs) for _, machine, runs in Run().executions().find()] == [
        ("m-1", True),
        ("m-3", False),
    ]
