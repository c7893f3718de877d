"""The fakes hold requests and answers to the discovery documents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.doubles import VirtualClock
from tests.fly.wire import Call
from tests.gcp.discovery import document
from tests.gcp.engine import FakeEngine
from tests.gcp.run import PARENT, FakeRun
from tests.gcp.server import TOKEN, Server

INSTANCES = "/compute/v1/projects/my-project/zones/europe-west4-a/instances"
RUN = f"/v2/{PARENT}/jobs/echo:run"


def violations(
    server: Server, method: str, path: str, body: Any = None, query: dict[str, list[str]] | None = None
) -> str:
    async def ask() -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        # The fake may stumble over what it has found wrong.
        await asyncio.gather(
            server.handle(Call(method, path, query or {}, headers, body)), return_exceptions=True
        )
        await server.close()

    asyncio.run(ask())
    return "; ".join(server.violations)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"nam": "x"}, "there is no member nam"),
        ({"name": 1}, "1 is no  string"),
        ({"labels": {"a": 1}}, "body.labels.a: 1 is no"),
        ({"scheduling": {"provisioningModel": "spot"}}, "'spot' is none of"),
        ({"scheduling": {"maxRunDuration": {"seconds": 60}}}, "60 is no int64 string"),
        ({"scheduling": {"automaticRestart": "false"}}, "'false' is no  boolean"),
        ({"metadata": {"items": {"key": "a", "value": "b"}}}, "is no list"),
        ({"status": "RUNNING"}, "body.status: it is for answers only"),
        (None, "the body is missing"),
    ],
)
def test_wrong_instance_is_a_violation(body: Any, words: str) -> None:
    assert words in violations(FakeEngine(VirtualClock()), "POST", INSTANCES, body)


@pytest.mark.parametrize(
    ("method", "path", "query", "words"),
    [
        ("GET", INSTANCES, {"maxResult": ["5"]}, "there is no parameter maxResult"),
        ("GET", INSTANCES, {"maxResults": ["many"]}, "'many' is no uint32 integer"),
        ("GET", INSTANCES, {"zone": ["europe-west4-a"]}, "zone is no parameter of the query"),
        ("GET", f"{INSTANCES}/UPPER", {}, "'UPPER' is not of the form"),
        ("PATCH", INSTANCES, {}, "there is no method PATCH"),
    ],
)
def test_wrong_call_is_a_violation(method: str, path: str, query: dict[str, list[str]], words: str) -> None:
    assert words in violations(FakeEngine(VirtualClock()), method, path, query=query)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"overrides": {"timeout": "600"}}, "'600' is no google-duration string"),
        ({"overrides": {"containerOverrides": [{"image": "x"}]}}, "there is no member image"),
        ({"overrides": {"taskCount": "1"}}, "'1' is no int32 integer"),
        ({"labels": {}}, "there is no member labels"),
    ],
)
def test_wrong_run_is_a_violation(body: Any, words: str) -> None:
    assert words in violations(FakeRun(VirtualClock()), "POST", RUN, body)


def test_wrong_answer_of_the_fake_is_a_violation() -> None:
    found = document("compute.v1.json").find("GET", f"{INSTANCES}/x")
    assert found is not None
    problems = document("compute.v1.json").answer_problems(found[0], {"status": "ASLEEP", "colour": "red"})
    assert len(problems) == 2


def test_template_of_the_stacks_is_one_of_the_api() -> None:
    fake = FakeEngine(VirtualClock())
    for properties in fake.templates.values():
        assert document("compute.v1.json").schema_problems("InstanceProperties", properties) == []
