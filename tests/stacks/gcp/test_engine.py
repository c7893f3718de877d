"""The `gcp` stack with the real engine, a stand-in for Google's provider, and a fake of Compute Engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pulumi.automation import PulumiCommand

from dispatcher.keys import hash_of
from stacks.gcp.ending import API_VARIABLE, LABEL
from tests.dispatcher.machines.test_google_credentials import PRIVATE
from tests.fly.wire import Application
from tests.gcp.engine import PROJECT, ZONES, FakeEngine
from tests.gcp.instances import Times
from tests.gcp.server import TOKEN
from tests.served import served
from tests.stacks.checkouts import CheckoutCopy, until
from tests.stacks.prepared import prepared_checkout
from tests.stacks.stand_in_provider import changed, done

CONFIG: dict[str, Any] = {
    "cloud": "gcp",
    "gcp": {"project": PROJECT, "region": ZONES[0][:-2], "zones": ["a", "b"]},
    "agents": {"echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"]}},
    "keys": [{"name": "web", "hash": hash_of("sk_test"), "scope": "start"}],
}
BASE = f"/compute/v1/projects/{PROJECT}/zones/{ZONES[0]}/instances"


class Google:
    """Google's server of tokens, and Compute Engine."""

    def __init__(self) -> None:
        self.engine = FakeEngine(times=Times(provision=0.0, stage=0.0, boot=600.0, power_off=0.0, delete=0.0))
        self._api = Application(self.engine)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/token":
            await self._api(scope, receive, send)
            return
        given = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        written = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": written})
        await send({"type": "http.response.body", "body": json.dumps(given).encode()})


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeEngine, str]]:
    """Compute Engine and its URL, with the credentials of whoever runs the engine."""
    made = Google()
    with served(made) as url:
        account = {
            "type": "service_account",
            "private_key": PRIVATE,
            "client_email": f"me@{PROJECT}.iam.gserviceaccount.com",
            "token_uri": f"{url}/token",
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        monkeypatch.setenv(API_VARIABLE, f"{url}/compute/v1/")
        yield made.engine, url
    assert made.engine.violations == []


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return tmp_path / "asked"


@pytest.fixture
def prepared(
    tmp_path: Path,
    pulumi_engine: PulumiCommand,
    nobody_logged_in: None,
    asked: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> CheckoutCopy:
    """A checkout that images could be built of, and stand-ins for the providers' executables."""
    return prepared_checkout(
        tmp_path,
        pulumi_engine,
        monkeypatch,
        cloud="gcp",
        asked=asked,
        config=CONFIG,
    )


HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def start_vm(url: str, name: str, deployment: str) -> None:
    """Make a VM as the dispatcher of a deployment does."""
    template = f"projects/{PROJECT}/global/instanceTemplates/echo-1"
    body = {"name": name, "labels": {LABEL: deployment}}
    params = {"sourceInstanceTemplate": template}
    answer = httpx.post(f"{url}{BASE}", params=params, headers=HEADERS, json=body, trust_env=False)
    answer.raise_for_status()


def test_a_stack_comes_up_changes_and_goes_whole(
    prepared: CheckoutCopy, asked: Path, google: tuple[FakeEngine, str]
) -> None:
    engine, url = google
    assert prepared.driver().preview() > 0
    assert changed(asked) == set(), "a preview makes nothing"
    prepared.driver().up()
    made = changed(asked)
    assert {("create", "dispatcher-service"), ("create", "bots-echo-template")} <= made
    state = (prepared.state_dir / "stacks" / "switchboard" / "local.json").read_text()
    assert "hunter2" not in state, "secrets are encrypted"
    # Nothing has changed: neither a preview nor an up does anything.
    assert prepared.driver().preview() == 0
    # A larger agent is a new template, whose name the dispatcher is told before the old one goes.
    larger = {"echo": {**CONFIG["agents"]["echo"], "memoryMb": 6144}}
    prepared.write_config(**{**CONFIG, "agents": larger})
    prepared.driver().up()
    did = [(one["operation"], one["name"]) for one in done(asked)]
    assert did == [
        ("create", "bots-echo-template"),
        ("update", "dispatcher-service"),
        ("delete", "bots-echo-template"),
    ]
    prepared.driver().refresh()
    assert changed(asked) == set()
    start_vm(url, "switchboard-local-m-1", "switchboard-local")
    start_vm(url, "theirs", "other")
    prepared.driver().destroy()
    gone = [one["name"] for one in done(asked) if one["operation"] == "delete"]
    assert gone.index("dispatcher-service") < gone.index("network-subnet")
    assert {name for _, name in made} == set(gone)
    assert [vm.name for vm in engine.living()] == ["theirs"], "bots' VMs end with the stack"
    httpx.delete(f"{url}{BASE}/theirs", headers=HEADERS, trust_env=False).raise_for_status()
    until("the other VM is gone", lambda: not engine.living())
