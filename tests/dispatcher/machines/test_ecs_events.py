"""Task state changes of ECS: read once, from whoever has the key, and as hints alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dispatcher.machines.ecs.events import KEY_HEADER, TaskEvents
from dispatcher.machines.settings import Forged
from tests.dispatcher.harness import deployment

KEY = "key-of-the-api-destination"
HEADERS = {"x-switchboard-key": KEY}
PLACEMENT = {
    "provider": "ecs",
    "region": "us-east-1",
    "cluster": "bots",
    "subnets": ["subnet-0000000a"],
    "securityGroups": ["sg-0000000a"],
    "taskDefinitions": {"echo": "echo:1"},
}
OTHER_KIND: dict[str, Any] = {"detail-type": "ECS Container Instance State Change"}
TASK = "arn:aws:ecs:us-east-1:123456789012:task/bots/00000000000000000000000000000001"


def event(machine_id: str, version: int = 1, **changes: Any) -> bytes:
    """A task event as in the ECS developer guide."""
    detail = {
        "clusterArn": "arn:aws:ecs:us-east-1:123456789012:cluster/bots",
        "taskArn": TASK,
        "lastStatus": "STOPPED",
        "desiredStatus": "STOPPED",
        "startedBy": f"switchboard/{machine_id}",
        "stopCode": "EssentialContainerExited",
        "version": version,
    }
    made = {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": detail}
    return json.dumps(made | changes).encode()


def test_an_event_names_its_machine_once() -> None:
    events = TaskEvents(KEY)
    assert events.read(event("m-1", 2)) == "m-1"
    assert events.read(event("m-1", 2)) is None, "EventBridge delivers twice at times"
    assert events.read(event("m-1", 1)) is None, "it is older"
    assert events.read(event("m-1", 3)) == "m-1"


@pytest.mark.parametrize("headers", [{}, {"x-switchboard-key": "a guess"}, {"x-switchboard-key": KEY + "é"}])
def test_an_event_without_the_key_is_forged(headers: dict[str, str]) -> None:
    with pytest.raises(Forged, match="x-switchboard-key"):
        TaskEvents(KEY).check(headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        event("m-1", source="aws.ec2"),
        event("m-1", **OTHER_KIND),
        event("m-1", detail=None),
        event("m-1", detail={"taskArn": TASK, "version": "1", "startedBy": "switchboard/m-1"}),
        event("m-1", detail={"taskArn": ["x"], "version": 1}),
    ],
)
def test_another_message_says_nothing(body: bytes) -> None:
    assert TaskEvents(KEY).read(body) is None


async def test_an_event_makes_the_reaper_ask_about_a_machine_that_is_silent(tmp_path: Path) -> None:
    settings = {"placements": {"scripted": PLACEMENT}, "ecs_events_key": KEY}
    async with deployment(tmp_path, **settings) as running:
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        await running.look(0)  # it was asked about, and runs
        body = event(f"m-{session_id}")
        path = "/webhooks/machines/ecs"
        assert (await running.http.post(path, content=body, headers=HEADERS)).status_code == 200
        await running.settle()
        await running.look(0.1)
        assert (await running.session(session_id))["state"] == "starting", "an event is no proof"
        running.provider.die(f"m-{session_id}", 139)
        await running.look(0.1)
        assert (await running.session(session_id))["state"] == "starting", "asked again so soon"
        later = event(f"m-{session_id}", 2)
        assert (await running.http.post(path, content=later, headers=HEADERS)).status_code == 200
        await running.settle()
        await running.look(0.1)
        assert (await running.session(session_id))["reason"] == "machine_killed"


async def test_events_are_taken_by_their_provider_and_key_alone(tmp_path: Path) -> None:
    settings = {"placements": {"scripted": PLACEMENT}, "ecs_events_key": KEY}
    async with deployment(tmp_path, **settings) as running:
        path = "/webhooks/machines/ecs"
        assert (await running.http.post(path, content=event("m-1"))).status_code == 401
        assert (await running.http.post(path, content=b"x" * 100_000, headers=HEADERS)).status_code == 413
        unknown = await running.http.post("/webhooks/machines/fly", content=event("m-1"), headers=HEADERS)
        assert unknown.status_code == 404


async def test_a_body_without_the_key_is_not_waited_for(tmp_path: Path) -> None:
    settings = {"placements": {"scripted": PLACEMENT}, "ecs_events_key": KEY}
    async with deployment(tmp_path, **settings) as running:
        address = urlsplit(running.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = f"POST /webhooks/machines/ecs HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 100\r\n"
        writer.write(f"{head}{KEY_HEADER}: a guess\r\n\r\n".encode())
        async with asyncio.timeout(10):
            status = await reader.readline()
        writer.close()
        assert status.split()[1] == b"401"


async def test_no_events_are_taken_without_a_key(tmp_path: Path) -> None:
    async with deployment(tmp_path, placements={"scripted": PLACEMENT}) as running:
        answer = await running.http.post("/webhooks/machines/ecs", content=event("m-1"), headers=HEADERS)
        assert answer.status_code == 404
