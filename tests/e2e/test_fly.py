"""A session whose machine is at Fly: a real dispatcher, the fake of Fly's API, and a real bot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fly.fake import FakeFly
from tests.fly.processes import OfThisHost
from tests.fly.wire import served
from tests.fly.world import IMAGE
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.processes import title_of

from .browser import until
from .dispatcher import CHECKOUT, Dispatcher, agent

ECHO = CHECKOUT / "bot" / "agents" / "echo.py"
APPS = ("bots-1", "bots-2")
PRIVATE = {"body": {"name": "hunter2-of-the-caller"}}


@pytest.fixture
def fly() -> FakeFly:
    made = FakeFly(start=OfThisHost)
    for app in APPS:
        # What the stack does with what agents name in `env`.
        made.app(app).secrets["GREETING"] = "hello"
    return made


@pytest.fixture
def dispatcher(fly: FakeFly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    monkeypatch.setenv("GREETING", "of the dispatcher")
    port = free_port()
    with served(fly) as url:
        started = Dispatcher(
            tmp_path,
            {"echo": agent(ECHO, image=IMAGE, env=["GREETING"])},
            port=port,
            more={
                # The fake's machines are processes of this host.
                "MACHINE_URL": f"http://127.0.0.1:{port}",
                "PLACEMENTS": json.dumps({"fly": {"provider": "fly", "apps": APPS, "region": "iad"}}),
                "FLY_API_TOKEN": json.dumps({app: f"FlyV1 {fly.token(app)}" for app in APPS}),
                "FLY_API_URL": url,
            },
        )
        try:
            started.start()
            yield started
        finally:
            started.stop()


def test_a_session_gets_a_machine_at_fly_and_leaves_nothing_there(
    dispatcher: Dispatcher, fly: FakeFly
) -> None:
    answer = httpx.post(f"{dispatcher.url}/start?wait=ready", json=PRIVATE, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text + dispatcher.log_tail()
    session_id = answer.json()["sessionId"]
    assert fly.running() == [f"switchboard-m-{session_id}"]
    (machine,) = fly.living()
    # Its token is its own; what the agent names is the app's, and in no machine's configuration.
    assert "GREETING" not in machine.config["env"], "not even what the dispatcher's own environment has"
    assert "hunter2" not in json.dumps(machine.config), "what is private goes over the channel"
    (bot,) = [one for one in dispatcher.processes() if "timeout" in title_of(one)]
    assert bot.environ()["GREETING"] == "hello"

    httpx.delete(f"{dispatcher.url}/sessions/{session_id}", timeout=PATIENCE).raise_for_status()
    record = dispatcher.wait_until_over(session_id)
    assert record["state"] == "ended"
    until(lambda: fly.living() == [], PATIENCE, "the end of the machine")
    dispatcher.wait_until_no_machine()
    assert fly.violations == []
