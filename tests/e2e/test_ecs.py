"""A session whose machine is at ECS: a real dispatcher, the fake of the ECS API, and a real bot.

The fake runs the task definition's entry point with exactly the command and variables of RunTask's overrides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ecs.fake import CLUSTER, GROUP, REGION, SUBNETS, FakeEcs
from tests.ecs.tasks import Definition, Times
from tests.ecs.world import KEY
from tests.fly.processes import OfThisHost
from tests.fly.wire import served
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.processes import title_of

from .browser import until
from .dispatcher import CHECKOUT, Dispatcher, agent

ECHO = CHECKOUT / "bot" / "agents" / "echo.py"
PRIVATE = {"body": {"name": "hunter2-of-the-caller"}}
EVENTS_KEY = "events-key-of-the-tests"


@pytest.fixture
def ecs() -> FakeEcs:
    # ECS reads what agents name in `env` from the secret store.
    definitions = {"echo:1": Definition(secrets={"GREETING": "hello"})}
    return FakeEcs(start=OfThisHost, definitions=definitions, times=Times(0.1, 0.1, 0.1, 5.0, 0.1))


@pytest.fixture
def dispatcher(ecs: FakeEcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    monkeypatch.setenv("GREETING", "of the dispatcher")
    placement = {
        "provider": "ecs",
        "region": REGION,
        "cluster": CLUSTER,
        "subnets": list(SUBNETS),
        "securityGroups": [GROUP],
        "taskDefinitions": {"echo": "echo:1"},
    }
    port = free_port()
    with served(ecs) as url:
        started = Dispatcher(
            tmp_path,
            {"echo": agent(ECHO, env=["GREETING"])},
            port=port,
            more={
                # The fake's tasks are processes of this host.
                "MACHINE_URL": f"http://127.0.0.1:{port}",
                "PLACEMENTS": json.dumps({"virginia": placement}),
                "ECS_ACCESS_KEY_ID": KEY.key_id,
                "ECS_SECRET_ACCESS_KEY": KEY.secret,
                "ECS_API_URL": url,
                "ECS_EVENTS_KEY": EVENTS_KEY,
            },
        )
        try:
            started.start()
            yield started
        finally:
            started.stop()


def test_a_session_gets_a_task_and_leaves_none(dispatcher: Dispatcher, ecs: FakeEcs) -> None:
    answer = httpx.post(f"{dispatcher.url}/start?wait=ready", json=PRIVATE, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text + dispatcher.log_tail()
    session_id = answer.json()["sessionId"]
    assert ecs.running() == [f"switchboard/m-{session_id}"]
    (task,) = ecs.living()
    assert task.request["taskDefinition"] == "echo:1"
    overrides = json.dumps(task.request["overrides"])
    # Its token is its own; what the agent names is in no override, and neither is what a caller says.
    assert "GREETING" not in overrides, "not even what the dispatcher's own environment has"
    assert "hunter2" not in overrides, "what is private goes over the channel"
    (bot,) = [one for one in dispatcher.processes() if "timeout" in title_of(one)]
    assert bot.cmdline()[:2] == ["timeout", "--kill-after=10"]
    assert bot.environ()["GREETING"] == "hello"

    timings = httpx.get(f"{dispatcher.url}/sessions/{session_id}", timeout=PATIENCE).json()["timings"]
    assert {"machine_place", "machine_pull", "machine_boot"} <= timings.keys()

    events = f"{dispatcher.url}/webhooks/machines/ecs"
    assert httpx.post(events, json={}, headers={"x-switchboard-key": "a guess"}).status_code == 401
    assert httpx.post(events, json={}, headers={"x-switchboard-key": EVENTS_KEY}).status_code == 200

    httpx.delete(f"{dispatcher.url}/sessions/{session_id}", timeout=PATIENCE).raise_for_status()
    record = dispatcher.wait_until_over(session_id)
    assert record["state"] == "ended"
    until(lambda: ecs.living() == [], PATIENCE, "the end of the task")
    dispatcher.wait_until_no_machine()
    assert ecs.violations == []
