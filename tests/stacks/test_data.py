"""Data goes only where somebody says so: the real Pulumi engine, with stand-ins for the clouds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from stacks import clouds
from stacks.engine.consent import Consent
from stacks.errors import ConfigError, EngineError, LossError
from stacks.stateful import CERTIFICATES, State
from tests.patience import PATIENCE
from tests.stacks.checkouts import AGENTS, CheckoutCopy
from tests.stacks.docker.test_engine import Stack as DockerStack
from tests.stacks.docker.test_engine import stack as docker_stack
from tests.stacks.fly.test_engine import KEY, changes
from tests.stacks.fly.test_engine import Stack as FlyStack
from tests.stacks.fly.test_engine import stack as fly_stack

__all__ = ["docker_stack", "fly_stack"]

YES = Consent(yes=True)
STORE = Consent(confirmed=frozenset({"store"}))
SERVICE = {"dispatcher", "engine-proxy", "firewall", "turn", "control-network", "machines-network"}


def deleted(stack: DockerStack) -> set[str]:
    return {name for operation, name in stack.noted() if operation == "delete"}


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(LossError) as caught:
        act()
    return str(caught.value)


def configure(stack: DockerStack, **values: Any) -> None:
    """Change these keys of the stack's config; None takes one away."""
    file = stack.checkout.root / "stacks" / "Pulumi.local.yaml"
    config = {
        key.removeprefix("switchboard:"): value
        for key, value in yaml.safe_load(file.read_text())["config"].items()
    }
    merged = {**config, **values}
    stack.checkout.write_config(**{key: value for key, value in merged.items() if value is not None})


def as_an_earlier_release_left_it(checkout: CheckoutCopy) -> None:
    """Put the store under the dispatcher's component, and take its marks off."""
    file = checkout.state_dir / "stacks" / "switchboard" / "local.json"
    content = json.loads(file.read_text())
    resources = content["checkpoint"]["latest"]["resources"]
    (component,) = (one for one in resources if one["type"] == "switchboard:docker:Dispatcher")
    (store,) = (one for one in resources if one["urn"].endswith("::store"))
    resources.remove(store)
    resources.insert(resources.index(component) + 1, store)
    now, before = store["urn"], f"{component['urn'].rpartition('::')[0]}${store['type']}::store"
    store["parent"] = component["urn"]
    del store["protect"], store["retainOnDelete"]
    file.write_text(json.dumps(content).replace(now, before))


def test_down_of_a_docker_stack_keeps_the_store_until_it_is_confirmed(
    docker_stack: DockerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test for all of it: each run of the engine takes seconds."""
    stack, driver = docker_stack, docker_stack.checkout.driver
    monkeypatch.setenv("ECHO_KEY", "hunter2-but-longer")
    configure(stack, throwaway=False)
    driver().up()
    store = stack.checkout.state()["store"]
    assert store["protect"]
    assert store["retainOnDelete"]
    stack.noted()

    # A stack that an earlier release has brought up: no plan changes it, and no down takes its store.
    as_an_earlier_release_left_it(stack.checkout)
    stack.checkout.lines.clear()
    driver().preview()
    assert not [line for line in stack.checkout.lines if " store: " in line]
    assert "no up has protected it yet" in refused(lambda: driver().destroy(YES))
    driver().up()
    assert stack.noted() == []
    assert stack.checkout.state()["store"]["protect"]

    # Nobody has agreed.
    said = refused(lambda: driver().destroy())
    assert "store (the Docker volume switchboard-local-store)" in said
    assert said.endswith("make down STACK=local YES=1")
    assert refused(lambda: driver().destroy(Consent(ask=lambda _: "no"))) == "nothing was deleted"
    assert "CONFIRM: sotre is nothing that holds data and would go; allowed: store" in refused(
        lambda: driver().destroy(Consent(confirmed=frozenset({"sotre"})))
    )

    # The bots could not be ended, so nothing goes.
    stack.engine.fails_always = True
    with pytest.raises(EngineError, match=r"the disk is gone.*; nothing was deleted"):
        driver().destroy(STORE)
    stack.engine.fails_always = False
    socket = stack.engine.server_address
    moved = f"{socket}.elsewhere"
    subprocess.run(["mv", str(socket), moved], check=True)
    with pytest.raises(EngineError, match=r"does not answer: .*; nothing was deleted"):
        driver().destroy(STORE)
    subprocess.run(["mv", moved, str(socket)], check=True)
    assert stack.noted() == []
    assert stack.checkout.state().keys() >= SERVICE

    # The service goes, and the bots with it; the store stays, and the next up goes on with it.
    questions: list[str] = []
    driver().destroy(Consent(ask=lambda text: questions.append(text) or "yes"))
    assert questions[0].startswith("stack local: this down ends every call and deletes ")
    gone = deleted(stack)
    assert gone >= SERVICE
    assert "store" not in gone
    assert ("DELETE", "/v1.41/containers/running-bot?force=true&v=true") in stack.engine.asked
    kept = "kept: store (the Docker volume switchboard-local-store). `make up` goes on with it, "
    kept += "`make down STACK=local CONFIRM=store` deletes it"
    assert stack.checkout.lines[-1] == f"stack local is down; {kept}"
    assert driver().outputs() == {}
    driver().destroy(YES)
    assert stack.checkout.lines[-1] == f"stack local is not up; {kept}"
    elsewhere = driver(docker={"host": "unix:///elsewhere/docker.sock"})
    for act in (elsewhere.preview, elsewhere.up):
        with pytest.raises(
            ConfigError, match=r"switchboard:docker\.host: 'unix:///elsewhere/docker\.sock' is refused"
        ):
            act()
    driver().up()
    noted = stack.noted()
    assert {name for operation, name in noted if operation == "create"} >= SERVICE
    assert "store" not in {name for _, name in noted}

    driver().destroy(STORE)
    assert "store" in deleted(stack)
    assert stack.checkout.state() == {}


def test_down_of_a_public_docker_stack_deletes_what_is_confirmed_alone(
    docker_stack: DockerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, driver = docker_stack, docker_stack.checkout.driver
    monkeypatch.setenv("ECHO_KEY", "hunter2-but-longer")
    host = f"unix://{stack.engine.server_address}"
    configure(stack, throwaway=False, keys=[KEY], docker={"host": host, "domain": "voice.example.com"})
    driver().up()
    stack.noted()

    driver().destroy(STORE)
    gone = deleted(stack)
    assert gone >= {"store", "caddy"}
    assert "caddy-data" not in gone
    assert stack.checkout.lines[-1].startswith("stack local is down; kept: caddy-data (the Docker volume ")
    driver().destroy(Consent(confirmed=frozenset({"caddy-data"})))
    assert deleted(stack) == {"caddy-data"}
    assert stack.checkout.state() == {}


def test_up_refuses_another_cloud_and_another_engine_for_a_docker_stack(
    docker_stack: DockerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, driver = docker_stack, docker_stack.checkout.driver
    monkeypatch.setenv("ECHO_KEY", "hunter2-but-longer")
    configure(stack, throwaway=False)
    driver().up()
    stack.noted()

    elsewhere = "unix:///elsewhere/docker.sock"
    configure(stack, docker={"host": elsewhere, "turn": True, "turnAddress": "203.0.113.7"})
    run = stack.checkout.command("up")
    assert (
        "switchboard:docker.host: 'unix:///elsewhere/docker.sock' is refused; "
        in run.communicate(timeout=PATIENCE)[1]
    )
    stack.checkout.write_config(throwaway=False, port=stack.checkout.port, agents=AGENTS)
    run = stack.checkout.command("up")
    said = run.communicate(timeout=PATIENCE)[1]
    assert said.startswith(
        "error: switchboard:cloud: 'local' is refused, since the stack is up in another cloud"
    )
    assert stack.noted() == []
    assert stack.checkout.processes() == []


def secret(checkout: CheckoutCopy, key: str, value: str) -> dict[str, str]:
    """The value as `pulumi config set --secret` writes it."""
    workspace = checkout.driver().workspace
    subprocess.run(
        [checkout.engine.command, "config", "set", "--secret", "--stack", "local", key, value],
        cwd=workspace.directory,
        env={**workspace.environment, "PULUMI_HOME": str(checkout.root.parent / "pulumi-home")},
        check=True,
        capture_output=True,
    )
    return yaml.safe_load((workspace.directory / "Pulumi.local.yaml").read_text())["config"][key]


def test_a_fly_stacks_store_and_its_app_stay_until_they_are_confirmed(fly_stack: FlyStack) -> None:
    stack, fake, driver = fly_stack, fly_stack.fake, fly_stack.checkout.driver
    said: list[str] = []
    stack.configure(throwaway=False)
    stack.up()
    (volume,) = fake.apps["voice"].volumes

    # Another app, another organization, another region: what is there would go.
    for fly, named in {
        ("prefix", "acme"): "switchboard:fly.prefix: the app voice",
        ("org", "others"): "switchboard:fly.org: 'others' is refused for the app voice",
        ("regions", ("lhr",)): "switchboard:fly.regions: 'lhr' is refused as the first; allowed: 'iad'",
    }.items():
        stack.configure(throwaway=False, **dict([fly]))
        assert changes(fake, lambda: said.append(stack.fails())) == []
        assert named in said[-1]
    stack.configure(throwaway=False)

    # A token that is not good any more.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLY_API_TOKEN", "fm2_revoked")
        with pytest.raises(EngineError, match="nothing was deleted"):
            driver().destroy(YES)
    assert changes(fake, lambda: refused(lambda: driver().destroy())) == []

    # The service goes: bots' apps, machines, addresses. The volume stays, in its app.
    driver().destroy(YES)
    assert [*fake.apps] == ["voice"]
    assert [*fake.apps["voice"].volumes] == [volume]
    assert fake.living() == []
    assert fake.apps["voice"].ips == []
    assert "dispatcher-app" in stack.checkout.lines[-1]
    stack.up()
    assert [*fake.apps["voice"].volumes] == [volume]
    assert [mount["volume"] for mount in stack.machine().config["mounts"]] == [volume]

    # Another store: the volume would go.
    file = stack.checkout.root / "stacks" / "Pulumi.local.yaml"
    content = yaml.safe_load(file.read_text())
    key = "switchboard:databaseUrl"
    content["config"][key] = secret(stack.checkout, key, "postgresql://u:p@db.internal/sessions")
    file.write_text(yaml.safe_dump(content))
    stack.checkout.lines.clear()
    planned = refused(driver().preview)
    holds = f"HOLDS DATA: the Fly volume {volume} of the app voice"
    assert f"  - store: delete, {holds}" in stack.checkout.lines
    assert planned.endswith("make up STACK=local CONFIRM=store")
    assert "state unprotect" not in planned, "the engine's advice would lose the data"
    said.append(stack.fails())
    assert f"error: {planned}\n" == said[-1]
    assert f"this up would delete store (the Fly volume {volume} of the app voice)" in said[-1]
    assert "make up STACK=local CONFIRM=store" in said[-1]
    assert [*fake.apps["voice"].volumes] == [volume]
    driver().up(STORE)
    assert fake.apps["voice"].volumes == {}
    driver().destroy(YES)
    assert fake.apps == {}
    assert stack.checkout.state() == {}


def test_what_is_kept_keeps_what_it_needs() -> None:
    """And nothing else: not what merely stands beside it."""

    def resource(name: str, *dependencies: str, type_: str = "a:b:C", **more: Any) -> dict[str, Any]:
        urns = [f"urn:pulumi:s::p::a:b:C::{one}" for one in dependencies]
        return {"urn": f"urn:pulumi:s::p::{type_}::{name}", "type": type_, "dependencies": urns, **more}

    volume = "pulumi-python:dynamic/switchboard:FlyVolume"
    there = [resource("app"), resource("other"), resource("store", "app", type_=volume)]
    state = State({"resources": there}, clouds.data_types())
    assert [one.name for one in state.left_without(state.stores)] == ["other"]
    assert [one.name for one in state.left_without([])] == ["app", "other", "store"]


def test_each_cloud_says_what_holds_data_and_names_it() -> None:
    there = [
        {"urn": f"urn:pulumi:s::p::{type_}::{name}", "type": type_, "id": "id-1", "inputs": {"name": "n"}}
        for type_, name in [
            ("docker:index/volume:Volume", CERTIFICATES),
            ("docker:index/volume:Volume", "firewall"),
            ("aws:rds/instance:Instance", "store"),
            ("acme:index/disk:Disk", "store"),
            ("docker:index/container:Container", "store"),
        ]
    ]
    assert [str(one) for one in State({"resources": there}, clouds.data_types()).stores] == [
        "caddy-data (the Docker volume n)",
        "store (the RDS instance id-1)",
    ]
    own = State({"resources": there}, {"acme:index/disk:Disk": lambda one: f"the Acme disk {one.id}"})
    assert [str(one) for one in own.stores] == ["store (the Acme disk id-1)"]
    assert [str(one) for one in own.marked] == ["store (the Acme disk id-1)"]
