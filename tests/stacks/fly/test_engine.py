"""The `fly` stack under the real Pulumi engine, against the fake of Fly's API; a stand-in builds images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from pulumi.automation import PulumiCommand

from dispatcher.keys import hash_of
from tests.fly import faults
from tests.fly.fake import FakeFly
from tests.fly.machines import Machine
from tests.fly.rates import Limits
from tests.fly.wire import served
from tests.patience import PATIENCE
from tests.stacks import stand_in_provider
from tests.stacks.checkouts import REPOSITORY, CheckoutCopy

KEY = {"name": "web", "hash": hash_of("sk_test"), "scope": "start"}
TOKEN = "SWITCHBOARD_FLY_API_TOKEN"
OUTSIDE = {
    "ECHO_KEY": "hunter2-of-the-bot",
    "DAILY_API_KEY": "hunter2-of-daily",
    "DAILY_WEBHOOK_SECRET": "aHVudGVyMi1vZi10aGUtaG9vaw==",
}
"""Secrets in the environment of whoever runs the engine."""


def bots_token(fake: FakeFly) -> str:
    """The dispatcher's token for the bots' app, as it is sent."""
    (printed,) = json.loads(fake.apps["voice"].secrets[TOKEN]).values()
    return printed.removeprefix("FlyV1 ")


class Stack:
    """A checkout with a `fly` stack, and the organisation that it deploys to."""

    def __init__(self, checkout: CheckoutCopy, fake: FakeFly, url: str) -> None:
        self.checkout = checkout
        self.fake = fake
        self._url = url
        self.configure()

    def configure(self, *, throwaway: bool = True, **fly: Any) -> None:
        agent = {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"], "transports": ["daily"]}
        self.checkout.write_config(
            throwaway=throwaway,
            cloud="fly",
            agents={"echo": agent},
            keys=[KEY],
            daily={"domain": "voice", "domainId": "d1"},
            fly={"org": "tests", "prefix": "voice", "apiUrl": self._url, **fly},
        )

    def up(self) -> dict[str, Any]:
        outputs = self.checkout.driver().up()
        return {name: output.value for name, output in outputs.items()}

    def fails(self, verb: str = "up") -> str:
        """Return the words of a run that fails. It has a process of its own: such a one leaves its event loop
        open."""
        run = self.checkout.command(verb, "--stack", "local")
        said = run.communicate(timeout=PATIENCE)[1]
        assert run.returncode == 1
        return said

    def ask(self, method: str, path: str, token: str, body: dict[str, Any] | None = None) -> None:
        """Ask the fake as somebody else."""
        bearer = {"Authorization": f"Bearer {token}"}
        httpx.request(
            method, f"{self._url}/v1/{path}", headers=bearer, json=body, timeout=PATIENCE
        ).raise_for_status()

    def machine(self, name: str = "voice-0") -> Machine:
        (found,) = (one for one in self.fake.living() if one.name == name)
        return found

    def written(self) -> str:
        """All that the engine has written down."""
        files = self.checkout.state_dir.rglob("*")
        return "".join(file.read_text() for file in files if file.is_file())


def prepared(
    tmp_path: Path, engine: PulumiCommand, monkeypatch: pytest.MonkeyPatch, *providers: str
) -> CheckoutCopy:
    """A checkout that images could be built of, and a stand-in that says it has built them.

    Args:
        providers: Other providers that have stand-ins.
    """
    names = {name: version(f"pulumi-{name}") for name in ("docker-build", *providers)}
    for name, value in stand_in_provider.install(tmp_path / "bin", tmp_path / "asked", names).items():
        monkeypatch.setenv(name, value)
    checkout = CheckoutCopy(tmp_path / "checkout", engine)
    shutil.copytree(REPOSITORY / "images", checkout.root / "images")
    shutil.copy(REPOSITORY / "requirements-node.txt", checkout.root)
    for name in ("__init__.py", "output.py", "protocol.py", "versions.py"):
        shutil.copy(REPOSITORY / "bot" / name, checkout.root / "bot" / name)
    return checkout


@pytest.fixture
def stack(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    checkout = prepared(tmp_path, pulumi_engine, monkeypatch)
    fake = FakeFly(limits=Limits(everything=None))
    fake.prepare_seconds = fake.boot_seconds = fake.destroy_seconds = 0.01
    for name, value in OUTSIDE.items():
        monkeypatch.setenv(name, value)
    with served(fake) as url:
        monkeypatch.setenv("FLY_API_TOKEN", fake.token())
        yield Stack(checkout, fake, url)
    assert fake.violations == []


def changes(fake: FakeFly, act: Callable[[], object]) -> list[str]:
    """Return the changes that Fly is asked for meanwhile."""
    before = len(fake.calls)
    act()
    reading = ("show", "list", "get", "wait")
    found = [one.operation for one in fake.calls[before:]]
    return [one for one in found if not any(word in one for word in reading)]


def drifted(stack: Stack, look: Callable[[], int]) -> int:
    """Count resources that are found gone or changed, in the right words."""
    stack.checkout.lines.clear()
    number = look()
    found = [line.strip() for line in stack.checkout.lines]
    assert [line for line in found if line in ("- ipv6: found gone", "- shared-ipv4: found gone")]
    assert "~ dispatcher-0: found changed: config.env.SWITCHBOARD_LOG_LEVEL: info → debug" in found
    assert [line for line in found if line.startswith("~ echo-secrets-0: found changed: ")]
    assert "hunter2" not in str(found)
    return number


def test_from_a_failed_up_to_the_end(stack: Stack) -> None:
    """One test for all of it: each run of the engine takes seconds."""
    fake, driver = stack.fake, stack.checkout.driver

    # Fly has no room, and the run ends half-way.
    fake.faults.order("Machines_create", faults.NO_CAPACITY)
    refused = "422 insufficient resources to create new machine in this region"
    assert stack.fails() == f"error: Fly refused POST apps/voice/machines: {refused}\n"
    made = set(fake.apps["voice"].volumes)

    # The next one goes on from there, and an answer gets lost.
    fake.faults.order("Machines_create", faults.LOST_REPLY)
    outputs = stack.up()
    assert outputs["url"] == "https://voice.fly.dev"
    assert outputs["log"] == "fly logs --app voice"
    assert outputs["bots"] == ["voice-echo-0"]
    assert set(fake.apps) == {"voice", "voice-echo-0"}
    assert set(fake.apps["voice"].volumes) == made
    machine = stack.machine()
    assert machine.config["image"].startswith("registry.fly.io/voice:dispatcher-")
    assert "@sha256:" in machine.config["image"]
    assert [mount["volume"] for mount in machine.config["mounts"]] == [*made]

    # What is secret is a secret of the app's, and nowhere else.
    token = bots_token(fake)
    assert fake.tokens[token].app == "voice-echo-0", "the dispatcher may do nothing outside of the bots' app"
    assert fake.apps["voice"].secrets["SWITCHBOARD_DAILY_API_KEY"] == "hunter2-of-daily"
    assert fake.apps["voice-echo-0"].secrets == {"ECHO_KEY": "hunter2-of-the-bot"}
    secrets = {*fake.tokens, *OUTSIDE.values(), *fake.apps["voice"].secrets.values()}
    for place in (stack.written(), str(machine.shown()), str(outputs), str(stack.checkout.lines)):
        assert not [secret for secret in secrets if secret in place]

    # A scheduled run that lacks what the bots have, and what the dispatcher has, takes neither away.
    for name, refused in {
        "ECHO_KEY": "switchboard:agents.echo.env: not set here, or empty: ECHO_KEY; allowed: the value",
        "DAILY_WEBHOOK_SECRET": "DAILY_WEBHOOK_SECRET: is not set here, and app voice has it; allowed: ",
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(name)
            said = stack.fails()
        assert refused in said
        assert not [value for value in OUTSIDE.values() if value in said]
    assert fake.apps["voice-echo-0"].secrets == {"ECHO_KEY": OUTSIDE["ECHO_KEY"]}

    # What is in an app is replaced with it: the engine knows it by the property.
    for urn, resource in stack.checkout.state().items():
        if "app" in resource.get("inputs", {}):
            (dependency,) = resource["propertyDependencies"]["app"]
            assert "FlyApp::" in dependency, urn

    # An app does not move, and a store does not go with its region.
    stack.configure(network="theirs")
    assert "switchboard:fly.network: 'theirs' is refused for the app voice; allowed: 'voice'" in stack.fails()
    stack.configure()

    assert changes(fake, lambda: driver().preview()) == []
    assert stack.checkout.lines[-1] == "stack local: nothing to change"

    # By hand: a variable, a secret, and an address that is gone.
    machine.config["env"]["SWITCHBOARD_LOG_LEVEL"] = "debug"
    fake.apps["voice-echo-0"].secrets["ECHO_KEY"] = "somebody's"
    fake.apps["voice"].ips.pop()
    state = stack.checkout.state()
    assert drifted(stack, driver().drift) == 3
    assert stack.checkout.state() == state, "it writes nothing"
    assert drifted(stack, driver().refresh) == 3

    # And a change of ours: another image of the bots, and another token beside the old one.
    images = machine.config["env"]["SWITCHBOARD_IMAGES"]
    (stack.checkout.root / "bot" / "agents" / "helper.py").write_text("x = 1\n")
    stack.configure(tokenDays=20)
    changed = changes(fake, stack.up)
    rolled = ["Machines_create_lease", "Machines_cordon", "Machines_update", "Machines_uncordon"]
    assert [one for one in changed if one in rolled] == rolled
    assert stack.machine() is machine
    assert machine.config["env"]["SWITCHBOARD_IMAGES"] != images
    assert machine.config["env"]["SWITCHBOARD_LOG_LEVEL"] == "info"
    assert fake.apps["voice-echo-0"].secrets == {"ECHO_KEY": "hunter2-of-the-bot"}
    assert len(fake.apps["voice"].ips) == 2
    assert bots_token(fake) != token
    assert token in fake.tokens, "it is good until whoever has it has the new one"

    # A bot, made as the dispatcher makes it, with its token.
    ends = {"auto_destroy": True, "restart": {"policy": "no"}}
    bot = {"name": "bot-1", "region": "iad", "config": {"image": "registry.fly.io/voice@sha256:1", **ends}}
    stack.ask("POST", "apps/voice-echo-0/machines", bots_token(fake), bot)
    driver().destroy()
    assert fake.apps == {}
    assert stack.checkout.state() == {}
    ended = [one.app for one in fake.calls if one.operation == "Machines_stop"]
    assert ended == ["voice", "voice-echo-0"], "the dispatcher first: nobody starts bots any more"


def test_the_token_of_the_config_goes_before_that_of_the_environment(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "of-the-tests")
    ours, checkout = stack.fake.token(), stack.checkout
    scratch = checkout.root / "scratch"
    scratch.mkdir()
    for arguments in (["stack", "init"], ["config", "set", "--secret", "switchboard:flyApiToken", ours]):
        subprocess.run(
            [checkout.engine.command, *arguments, "--non-interactive", "--stack", "local"],
            cwd=checkout.root,
            env={**os.environ, "PULUMI_BACKEND_URL": scratch.as_uri()},
            check=True,
            timeout=PATIENCE,
            capture_output=True,
        )
    theirs = os.environ["FLY_API_TOKEN"]
    monkeypatch.setenv("FLY_API_TOKEN", "fm2_of-something-else")
    stack.up()
    assert ours not in stack.written()

    # Revoked: what a down is given is the config of the last up, whatever the file says now.
    del stack.fake.tokens[ours]
    assert "401" in stack.fails("destroy")
    monkeypatch.setenv("FLY_API_TOKEN", theirs)
    checkout.driver().destroy()
    assert stack.fake.apps == {}


def test_a_region_that_fly_does_not_have_is_refused_before_anything_is_made(stack: Stack) -> None:
    stack.configure(regions=["xyz"])
    refused = "switchboard:fly.regions: 'xyz' is not a region of Fly; allowed: ams, dfw, fra, iad, lhr"
    assert refused in stack.fails()
    assert stack.fake.apps == {}
