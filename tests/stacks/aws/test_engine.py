"""The `aws` stack with the real engine, a stand-in for AWS's provider, and moto where bots' tasks end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pulumi.automation import PulumiCommand

from dispatcher.keys import hash_of
from stacks.smoke import __main__ as smoke
from stacks.smoke.run import Joined
from tests.stacks.aws.moto_server import Moto
from tests.stacks.checkouts import CheckoutCopy
from tests.stacks.prepared import prepared_checkout
from tests.stacks.stand_in_provider import changed, done

KEY = {"name": "web", "hash": hash_of("sk_test"), "scope": "start"}

CONFIG: dict[str, Any] = {
    "cloud": "aws",
    "agents": {"echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"]}},
    "keys": [KEY],
}


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return tmp_path / "asked"


@pytest.fixture
def prepared(
    tmp_path: Path,
    pulumi_engine: PulumiCommand,
    nobody_logged_in: None,
    asked: Path,
    moto: Moto,
    monkeypatch: pytest.MonkeyPatch,
) -> CheckoutCopy:
    """A checkout that images could be built of, and stand-ins for the providers' executables."""
    return prepared_checkout(
        tmp_path,
        pulumi_engine,
        monkeypatch,
        cloud="aws",
        asked=asked,
        config=CONFIG,
        variables={
            "AWS_ENDPOINT_URL_ECS": moto.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        },
    )


def test_a_stack_comes_up_changes_and_goes_whole(prepared: CheckoutCopy, asked: Path, moto: Moto) -> None:
    ecs = moto.client("ecs")
    ecs.create_cluster(clusterName="switchboard-local")
    prepared.driver().up()
    made = changed(asked)
    assert ("create", "dispatcher-service") in made
    state = (prepared.state_dir / "stacks" / "switchboard" / "local.json").read_text()
    assert "hunter2" not in state, "secrets are encrypted"
    # Nothing has changed: neither a preview nor an up does anything.
    prepared.driver().up()
    assert changed(asked) == set()
    # Another limit of an agent is another environment of the dispatcher, and nothing else.
    prepared.write_config(**CONFIG, maxSessions=7)
    prepared.driver().up()
    assert {name for _, name in changed(asked)} == {"dispatcher-task", "dispatcher-service"}
    # More days of logs are a change of both groups in place.
    prepared.write_config(**CONFIG, maxSessions=7, aws={"logDays": 60})
    prepared.driver().up()
    assert changed(asked) == {("update", "bots-log"), ("update", "dispatcher-log")}
    prepared.driver().refresh()
    assert changed(asked) == set()
    prepared.driver().destroy()
    gone = [one["name"] for one in done(asked) if one["operation"] == "delete"]
    assert gone.index("dispatcher-service") < gone.index("bots-cluster")
    assert {name for _, name in made} == set(gone)
    assert "ecs:ListTasks" in moto.calls(), "bots' tasks are looked for at the end"


def test_smoke_calls_the_url_that_the_stack_has_put_out_with_the_callers_key(
    prepared: CheckoutCopy, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the call itself is played: no media leaves this machine for AWS."""
    moto.client("ecs").create_cluster(clusterName="switchboard-local")
    called: list[tuple[str, str, str | None]] = []

    def run(url: str, key: str, agent: str | None) -> Joined:
        called.append((url, key, agent))
        return Joined("s-1", "echo", "webrtc", "a caller heard the bot", 3.0, 60.0)

    said: list[str] = []
    monkeypatch.setattr(smoke, "CHECKOUT", prepared.root)
    monkeypatch.setattr(smoke, "find", lambda: prepared.engine)
    monkeypatch.setattr(smoke, "run", run)
    monkeypatch.setattr(smoke, "say", said.append)
    monkeypatch.setenv("SWITCHBOARD_KEY", "sk_test")
    assert smoke.main(["--stack", "local"]) == 1
    assert called == [], "a stack that is not up is not called"
    outputs = prepared.driver().up()
    assert smoke.main(["--stack", "local", "--agent", "echo"]) == 0
    url = str(outputs["url"].value)
    assert url.startswith("https://")
    assert called == [(url, "sk_test", "echo")]
    # A minute of 1 vCPU and 2 GB with a public address, by the prices in docs/aws.md.
    minute = 60 * (0.000011244 + 2 * 0.000001235 + 0.005 / 3600)
    assert f"it cost ${minute:.6f}: 60.0 s of " in "\n".join(said)
    prepared.driver().destroy()
