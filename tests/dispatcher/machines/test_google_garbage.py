"""Answers of Google's APIs that lie, have another shape or never end: a provider fails by kind alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest

from dispatcher.clock import Clock, SystemClock
from dispatcher.machines.cloud_run_jobs.client import RunApi
from dispatcher.machines.cloud_run_jobs.provider import CloudRunJobsProvider
from dispatcher.machines.cloud_run_jobs.request import Place as RunPlace
from dispatcher.machines.compute_engine.client import ComputeApi
from dispatcher.machines.compute_engine.provider import ComputeEngineProvider
from dispatcher.machines.compute_engine.request import Place
from dispatcher.machines.google import api
from dispatcher.machines.google.api import GoogleApi
from dispatcher.machines.provider import ProviderError, Unreachable
from tests.doubles import VirtualClock
from tests.gcp.engine import PROJECT, ZONES
from tests.gcp.run import PARENT, REGION
from tests.gcp.world import GoodToken, spec

ZONE = ZONES[0]
VM = {
    "name": "calls-m-1",
    "status": "RUNNING",
    "labels": {"switchboard-machine": "m-1", "switchboard-deployment": "calls"},
    "creationTimestamp": "2026-01-01T00:00:00Z",
}
OPERATION = {
    "name": "operation-1",
    "status": "DONE",
    "targetLink": f"https://compute.test/zones/{ZONE}/instances/calls-m-1",
    "error": {"errors": [{"code": "X", "message": "y"}]},
}
EXECUTION = {
    "name": f"{PARENT}/jobs/echo/executions/e1",
    "createTime": "2026-01-01T00:00:00Z",
    "conditions": [{"type": "Completed", "state": "CONDITION_FAILED", "reason": "X", "message": "y"}],
    "completionTime": "2026-01-01T00:00:00Z",
    "failedCount": 1,
    "template": {
        "containers": [
            {
                "env": [
                    {"name": "SWITCHBOARD_MACHINE_ID", "value": "m-1"},
                    {"name": "SWITCHBOARD_DEPLOYMENT", "value": "calls"},
                ]
            }
        ]
    },
}
ERROR = {
    "error": {
        "message": "m",
        "status": "X",
        "errors": [{"reason": "r"}],
        "details": [{"reason": "q", "retryDelay": "3s"}],
    }
}
AT_ENGINE: dict[str, Any] = {
    "template": {"name": "echo-1", "properties": {"metadata": {"items": [{"key": "a", "value": "b"}]}}},
    "operation": OPERATION,
    "wait": OPERATION,
    "instance": VM,
    "ended": {**VM, "status": "TERMINATED"},
    "instances": {"items": [VM], "nextPageToken": ""},
    "attributes": {"queryValue": {"items": [{"namespace": "switchboard", "key": "exit-code", "value": "0"}]}},
}
AT_RUN: dict[str, Any] = {
    "run": {"metadata": EXECUTION},
    "execution": EXECUTION,
    "executions": {"executions": [EXECUTION], "nextPageToken": ""},
    "tasks": {"tasks": [{"lastAttemptResult": {"exitCode": 1}}]},
}
GARBAGE: tuple[Any, ...] = (None, 1, "x", [1], {"x": 1})

Handler = Callable[[httpx.Request], httpx.Response]


def spoiled(good: Any) -> Iterator[Any]:
    """Yield the answer with garbage in the place of each of its parts, and without each of its members."""
    yield from GARBAGE
    if isinstance(good, dict):
        for name, value in good.items():
            yield from ({**good, name: bad} for bad in spoiled(value))
            yield {key: kept for key, kept in good.items() if key != name}
    if isinstance(good, list):
        for at, value in enumerate(good):
            yield from ([*good[:at], bad, *good[at + 1 :]] for bad in spoiled(value))


def engine(answers: Mapping[str, Any]) -> Handler:
    def handle(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if "emplates/" in path:
            part = "template"
        elif path.endswith("/wait"):
            part = "wait"
        elif path.endswith("/getGuestAttributes"):
            part = "attributes"
        elif request.method != "GET":
            part = "operation"
        else:
            part = "instances" if path.endswith("/instances") else "instance"
        return httpx.Response(200, json=answers[part])

    return handle


def run(answers: Mapping[str, Any]) -> Handler:
    def handle(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        part = path.rpartition("/")[2] if path.endswith(("/executions", "/tasks")) else "execution"
        return httpx.Response(200, json=answers["run" if path.endswith(":run") else part])

    return handle


def at_engine(handle: Handler, clock: Clock) -> ComputeEngineProvider:
    url, transport = "http://compute.test/compute/v1", httpx.MockTransport(handle)
    made = GoogleApi("Compute Engine", url, GoodToken(), clock, {}, transport)
    place = Place("calls", PROJECT, (ZONE,), {"echo": "echo-1"})
    return ComputeEngineProvider(ComputeApi(made, PROJECT), place, clock)


def at_run(handle: Handler, clock: Clock) -> CloudRunJobsProvider:
    made = GoogleApi("Cloud Run", "http://run.test/v2", GoodToken(), clock, {}, httpx.MockTransport(handle))
    return CloudRunJobsProvider(RunApi(made), RunPlace("calls", PROJECT, REGION, {"echo": "echo"}), clock)


async def fails_by_kind(provider: Any, clock: Clock, what: str) -> None:
    """Call each method; anything but an answer or a `ProviderError` is raised."""

    async def listed() -> None:
        async for _ in provider.list():
            pass

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "create": lambda: provider.create(spec("m-1", answer_by=clock.now() + 20)),
        "get": lambda: provider.get("m-1"),
        "list": listed,
        "stop": lambda: provider.stop("m-1", timedelta(0)),
    }
    if isinstance(provider, ComputeEngineProvider):
        calls |= {"suspend": lambda: provider.suspend("m-1"), "resume": lambda: provider.resume("m-1")}
    for name, call in calls.items():
        try:
            await call()
        except ProviderError:
            pass
        except Exception as error:
            raise AssertionError(f"{name} with {what}: {type(error).__name__}: {error}") from error
    await provider.close()


@pytest.mark.parametrize("part", AT_ENGINE)
def test_compute_engine_fails_by_kind_when_an_answer_is_garbage(part: str) -> None:
    clock = VirtualClock()
    instance = "ended" if part == "attributes" else "instance"
    for bad in spoiled(AT_ENGINE[part]):
        answers = {**AT_ENGINE, "instance": AT_ENGINE[instance], part: bad}
        if part == "ended":
            answers["instance"] = bad
        clock.run(fails_by_kind(at_engine(engine(answers), clock), clock, f"{part}: {bad}"))


@pytest.mark.parametrize("part", AT_RUN)
def test_cloud_run_fails_by_kind_when_an_answer_is_garbage(part: str) -> None:
    clock = VirtualClock()
    for bad in spoiled(AT_RUN[part]):
        clock.run(fails_by_kind(at_run(run({**AT_RUN, part: bad}), clock), clock, f"{part}: {bad}"))


@pytest.mark.parametrize("status", [400, 401, 403, 409, 429, 503])
def test_error_that_is_garbage_fails_by_its_status(status: int) -> None:
    clock = VirtualClock()
    for bad in spoiled(ERROR):
        provider = at_engine(lambda _request, bad=bad: httpx.Response(status, json=bad), clock)
        clock.run(fails_by_kind(provider, clock, f"{status}: {bad}"))


def test_operation_that_is_never_done_is_asked_about_with_pauses() -> None:
    clock, asked = VirtualClock(), 0
    running = {**OPERATION, "status": "RUNNING"}
    unfinished = engine({**AT_ENGINE, "operation": running, "wait": running})

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += request.url.path.endswith("/wait")
        return unfinished(request)

    async def go() -> None:
        began = clock.now()
        await at_engine(handle, clock).create(spec("m-1", answer_by=began + 60))
        assert clock.now() == pytest.approx(began + 60, abs=1)

    clock.run(go())
    assert 10 < asked <= 31


def test_answer_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CONNECT_SECONDS", 0.01)

    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0)

    async def go() -> None:
        transport = httpx.MockTransport(lambda _request: httpx.Response(200, stream=Trickle()))
        at = GoogleApi("Google", "http://google.test", GoodToken(), SystemClock(), {}, transport)
        with pytest.raises(Unreachable, match=r"Google did not end its answer within 0.06 s"):
            await at.call("read", "GET", "x", seconds=0.05)
        await at.close()

    asyncio.run(go())


def test_list_that_never_ends_is_given_up() -> None:
    clock = VirtualClock()
    endless_vms = {"items": [VM], "nextPageToken": "again"}
    endless_runs = {"executions": [EXECUTION], "nextPageToken": "again"}
    providers = (
        at_engine(engine({**AT_ENGINE, "instances": endless_vms}), clock),
        at_run(run({**AT_RUN, "executions": endless_runs}), clock),
    )

    async def go() -> None:
        for provider in providers:
            with pytest.raises(Unreachable, match="pages show"):
                [one async for one in provider.list()]
            await provider.close()

    clock.run(go())
