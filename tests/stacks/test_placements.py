"""A stack with several placements: a `docker` host, with bots at its engine and at Fly."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pulumi.automation import PulumiCommand
from pulumi.runtime import rpc

from dispatcher.keys import hash_of, new_key
from stacks.config import parse
from stacks.deployment import PlacedBots, PlannedBots
from stacks.errors import ConfigError
from stacks.fly.config import FlyPlacementConfig
from stacks.shared.settings import secret_variables
from tests.fly.fake import FakeFly
from tests.fly.wire import served
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.stacks.checkouts import CheckoutCopy, until
from tests.stacks.fly.test_engine import prepared
from tests.stacks.local.test_program import run
from tests.stacks.one_machine_engine import OneMachineEngine, standing_in_for_one_machine
from tests.stacks.planning import REPOSITORY, plan_of
from tests.stacks.stand_in_engine import StandInEngine, standing_in

KEY = new_key(public=True)
KEYS = [{"name": "web", "hash": hash_of(KEY), "scope": "start"}]
ECHO = {"bot": "bot/agents/echo.py", "placements": ["docker", "overflow"]}
VOICE = {"bot": "bot/agents/voice.py", "placements": ["overflow"], "env": ["OPENAI_API_KEY"]}
PLACEMENTS = {
    "docker": {"cloud": "docker"},
    "overflow": {"cloud": "fly", "regions": ["lhr", "iad"], "cpuKind": "shared"},
}
MIXED: dict[str, Any] = {
    "cloud": "docker",
    "keys": KEYS,
    "agents": {"echo": ECHO, "voice": VOICE},
    "docker": {"domain": "voice.example.com"},
    "placements": PLACEMENTS,
}
FLY_IMAGE = f"overflow-bot-bot-agents-image@sha256:{'0' * 64}"


def texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: one if isinstance(one, str) else json.dumps(one) for name, one in values.items()}


@pytest.fixture(scope="module")
def described() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-of-voice")
        yield run(by_environment=False, **texts(MIXED))["resources"]


def variables(described: dict[str, Any]) -> dict[str, str]:
    return rpc.unwrap_rpc_secret(described["dispatcher-variables"]["inputs"]["values"])


def test_dispatcher_has_the_placements_in_the_agents_order(described: dict[str, Any]) -> None:
    given = variables(described)
    placements = json.loads(given["SWITCHBOARD_PLACEMENTS"])
    assert [(name, one["provider"]) for name, one in placements.items()] == [
        ("docker", "container"),
        ("overflow-echo", "fly"),
        ("overflow-voice", "fly"),
    ]
    agents = json.loads(given["SWITCHBOARD_AGENTS"])
    assert agents["echo"]["placements"] == ["docker", "overflow-echo"]
    assert agents["voice"]["placements"] == ["overflow-voice"]
    there = placements["overflow-echo"]
    assert there["machine_url"] == "https://voice.example.com"
    assert "images" not in there, "a new one would replace the dispatcher"
    assert (there["region"], there["cpu_kind"]) == ("lhr,iad", "shared")
    assert there["apps"] == ["switchboard-local-overflow-echo-0"]
    assert given["SWITCHBOARD_MACHINE_URL"] == "http://dispatcher:7860", (
        "bots at the engine need no public name"
    )


def test_same_image_goes_to_each_registry(described: dict[str, Any]) -> None:
    images = {
        name: one["inputs"] for name, one in described.items() if one["type"] == "docker-build:index:Image"
    }
    assert sorted(images) == ["bot-bot-agents-image", "dispatcher-image", "overflow-bot-bot-agents-image"]
    here, there = images["bot-bot-agents-image"], images["overflow-bot-bot-agents-image"]
    (here_tag,), (there_tag,) = here["tags"], there["tags"]
    assert there_tag.startswith("registry.fly.io/switchboard-local-overflow:bot-bot-agents-")
    assert here_tag.rpartition(":")[2] == there_tag.rpartition("-")[2], "one fingerprint"
    assert (here["push"], there["push"]) == (False, True)
    table = described["rollout"]["inputs"]["images"]
    assert table == {
        "echo": {"bot": "echo.py", "image": here_tag, "placements": {"overflow-echo": FLY_IMAGE}},
        "voice": {"bot": "voice.py", "placements": {"overflow-voice": FLY_IMAGE}},
    }
    assert given_images(described) == {}


def given_images(described: dict[str, Any]) -> dict[str, Any]:
    """Return the images in the dispatcher's environment: those of its agents and placements."""
    given = variables(described)
    of_both = json.loads(given["SWITCHBOARD_PLACEMENTS"]) | json.loads(given["SWITCHBOARD_AGENTS"])
    return {name: one for name, one in of_both.items() if one.keys() & {"image", "images"}}


def test_a_changed_bot_at_fly_changes_the_table_of_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-voice")
    older, newer = (
        run(
            by_environment=False,
            **texts({**MIXED, "agents": {"echo": ECHO, "voice": VOICE, "theirs": at_fly}}),
        )["resources"]
        for digit in "12"
        for at_fly in [
            {"bot": "/app/bot.py", "placements": ["overflow"], "image": f"there@sha256:{digit * 64}"}
        ]
    )
    assert [name for name in newer if newer[name] != older[name]] == ["rollout"]
    assert newer["rollout"]["inputs"]["images"]["theirs"] == {
        "bot": "/app/bot.py",
        "placements": {"overflow-theirs": f"there@sha256:{'2' * 64}"},
    }


def test_secrets_go_where_the_bots_are(described: dict[str, Any]) -> None:
    given = variables(described)
    tokens = json.loads(given["SWITCHBOARD_FLY_API_TOKEN"])
    assert sorted(tokens) == ["switchboard-local-overflow-echo-0", "switchboard-local-overflow-voice-0"]
    assert "OPENAI_API_KEY" not in given, "the dispatcher runs no bot that needs it"
    values = described["overflow-voice-secrets-0"]["inputs"]["values"]
    assert rpc.unwrap_rpc_secret(values)["OPENAI_API_KEY"] == "sk-of-voice"


def test_placement_of_the_hosts_own_name_changes_nothing_of_its_resources() -> None:
    alone = {**MIXED, "agents": {"echo": {"bot": "bot/agents/echo.py"}}}
    without = {name: value for name, value in alone.items() if name != "placements"}
    named = {**alone, "placements": {"docker": {"cloud": "docker"}}}
    assert run(by_environment=False, **texts(named)) == run(by_environment=False, **texts(without))


def test_agents_without_placements_ask_the_hosts_first() -> None:
    values = {**MIXED, "agents": {"echo": {"bot": "bot/agents/echo.py"}}}
    values["placements"] = {"a-overflow": {"cloud": "fly"}, "docker": {"cloud": "docker"}}
    found = variables(run(by_environment=False, **texts(values))["resources"])
    assert json.loads(found["SWITCHBOARD_AGENTS"])["echo"]["placements"] == ["docker", "a-overflow-echo"]


def test_fly_host_has_several_placements_at_fly() -> None:
    values = {
        "cloud": "fly",
        "keys": KEYS,
        "agents": {"echo": {"bot": "bot/agents/echo.py"}},
        "fly": {"prefix": "acme", "regions": ["iad"]},
        "placements": {"fly": {"cloud": "fly"}, "europe": {"cloud": "fly", "regions": ["lhr"]}},
    }
    described = run(by_environment=False, **texts(values))["resources"]
    machine = described["dispatcher-0"]["inputs"]["config"]["env"]
    placements = json.loads(machine["SWITCHBOARD_PLACEMENTS"])
    assert {name: (one["apps"], one["region"]) for name, one in placements.items()} == {
        "echo": (["acme-echo-0"], "iad"),
        "europe-echo": (["acme-europe-echo-0"], "lhr"),
    }
    assert placements["europe-echo"]["images"]["echo"].startswith("europe-bot-bot-agents-image@")
    assert json.loads(machine["SWITCHBOARD_AGENTS"])["echo"]["placements"] == ["echo", "europe-echo"]
    tokens = rpc.unwrap_rpc_secret(described["dispatcher-secrets"]["inputs"]["values"])
    assert sorted(json.loads(tokens["SWITCHBOARD_FLY_API_TOKEN"])) == [
        "acme-echo-0",
        "acme-europe-echo-0",
    ]


ONE = {"agents": {"echo": {"bot": "bot/agents/echo.py"}}}
FLY_HOST = {"cloud": "fly", "keys": KEYS, "fly": {"prefix": "acme"}, **ONE}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {**MIXED, "docker": {}},
            "switchboard:placements.overflow.cloud: 'fly' is refused, since machines there cannot reach a "
            "dispatcher that has no public URL; allowed: docker, or a host with a public name "
            "(switchboard:docker.domain, a name that leads to the engine's host)",
        ),
        (
            {**ONE, "placements": {"overflow": {"cloud": "fly"}}},
            "switchboard:placements.overflow.cloud: 'fly' is refused, since machines there cannot reach a "
            "dispatcher that has no public URL; allowed: local",
        ),
        (
            {**FLY_HOST, "placements": {"docker": {"cloud": "docker"}}},
            "switchboard:placements.docker.cloud: 'docker' is refused, since a dispatcher of cloud fly "
            "reaches no Docker engine; allowed: any other cloud, or cloud: docker for the stack",
        ),
        (
            {**MIXED, "placements": {"docker": {"cloud": "docker"}, "virginia": {"cloud": "aws"}}, **ONE},
            "switchboard:placements.virginia.cloud: 'aws' is refused, since a dispatcher of cloud docker "
            "would need an access key of AWS that never expires; allowed: any other cloud, or cloud: aws for "
            "the stack",
        ),
        (
            {**MIXED, "placements": {"docker": {"cloud": "docker"}, "more": {"cloud": "docker"}}, **ONE},
            "switchboard:placements.more: is refused, since a stack has one Docker engine; allowed: one "
            "placement of cloud docker, which is called docker",
        ),
        (
            {**MIXED, "placements": {"overflow": {"cloud": "hetzner"}}},
            "switchboard:placements.overflow.cloud: 'hetzner' is refused; allowed: ",
        ),
        (
            {**MIXED, "placements": {"fly": {"cloud": "docker"}}},
            "switchboard:placements.fly.cloud: 'docker' is refused, since the placement is called as another "
            "cloud; allowed: fly, or another name",
        ),
        (
            {**MIXED, "placements": {"overflow": {"cloud": "fly", "region": "iad"}}},
            "switchboard:placements.overflow.region: is not a key; allowed: ",
        ),
        (
            {**MIXED, "placements": {"overflow": {"cloud": "fly", "regions": ["frankfurt"]}}},
            'switchboard:placements.overflow.regions[0]: "frankfurt" is refused; allowed: a list of at least',
        ),
        (
            {**MIXED, "placements": {"Over flow": {"cloud": "fly"}}},
            "switchboard:placements.Over flow",
        ),
        (
            {**MIXED, "placements": {"overflow": {}}},
            "switchboard:placements.overflow.cloud: is missing; allowed: ",
        ),
        (
            {**MIXED, "agents": {"echo": {"bot": "bot/agents/echo.py", "placements": ["oveflow"]}}},
            "switchboard:agents.echo.placements[0]: 'oveflow' is not a placement of the stack; allowed: "
            "docker, overflow",
        ),
        (
            {
                **MIXED,
                **ONE,
                "placements": {name: {"cloud": "fly", "prefix": "acme"} for name in ("east", "west")},
            },
            "switchboard:placements.west: makes the app acme, and so does placement 'east'; allowed: names "
            "of its own",
        ),
        (
            {
                **FLY_HOST,
                "agents": {"echo": {"bot": "bot/agents/echo.py"}, "b-echo": {"bot": "bot/agents/echo.py"}},
                "placements": {"a": {"cloud": "fly", "prefix": "x"}, "c": {"cloud": "fly", "prefix": "x-b"}},
            },
            "switchboard:placements.c: makes the app x-b-echo-0, and so does placement 'a'; allowed: ",
        ),
        (
            {**FLY_HOST, "fly": {"prefix": "x-echo-0"}, "placements": {"a": {"cloud": "fly", "prefix": "x"}}},
            "switchboard:placements.a.prefix: 'x' is refused, since x-echo-0 is the dispatcher's app; ",
        ),
        (
            {**MIXED, "agents": {"echo": {**ECHO, "placements": ["docker"]}}},
            "switchboard:placements.overflow: no agent's machines may be there; allowed: a placement that an "
            "agent's placements name (docker), or no such entry",
        ),
        (
            {**MIXED, "agents": {"echo": {**ECHO, "placements": ["overflow"]}}},
            "switchboard:placements.docker: no agent's machines may be there; allowed: ",
        ),
        (
            {**MIXED, "placements": {**PLACEMENTS, "docker": {"cloud": "docker", "compression": "zstd"}}},
            "switchboard:placements.docker.compression: 'zstd' is refused without a registry; allowed: gzip",
        ),
    ],
)
def test_placement_that_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    given = {f"switchboard:{name}": value for name, value in texts(values).items()}
    with pytest.raises(ConfigError) as refused:
        plan_of(parse(given, project="switchboard", checkout=REPOSITORY, stack="prod"))
    assert str(refused.value).startswith(words)


def test_secret_of_two_placements_is_refused() -> None:
    one, two = (
        PlacedBots(
            planned=PlannedBots(name=name, cloud="fly", keys=FlyPlacementConfig()),
            secrets={"TOKENS": {"acme-echo-0": "hunter2"}, **more},
        )
        for name, more in (("east", {}), ("west", {"OTHER": "x"}))
    )
    with pytest.raises(ConfigError) as refused:
        secret_variables([one, two])
    assert str(refused.value) == (
        "switchboard:placements.west: the key acme-echo-0 of TOKENS comes from another placement too; "
        "allowed: one placement that gives it"
    )
    whole = dataclasses.replace(two, secrets={"TOKENS": "hunter2"})
    with pytest.raises(ConfigError, match=r"^switchboard:placements\.west: TOKENS comes from another"):
        secret_variables([one, whole])


@pytest.fixture
def stack(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[CheckoutCopy, StandInEngine, FakeFly]]:
    """A checkout with stand-ins for Docker, its providers and Fly."""
    checkout, fake = prepared(tmp_path, pulumi_engine, monkeypatch, "docker"), FakeFly()
    fake.prepare_seconds = fake.boot_seconds = fake.destroy_seconds = 0.01
    socket = tmp_path / "engine.sock"
    with served(fake) as url, standing_in(socket) as engine:
        monkeypatch.setenv("FLY_API_TOKEN", fake.token())
        checkout.write_config(
            cloud="docker",
            keys=KEYS,
            agents={"echo": {"bot": "bot/agents/echo.py", "placements": ["docker", "overflow"]}},
            docker={"domain": "voice.example.com", "host": f"unix://{socket}"},
            fly={"org": "tests", "apiUrl": url},
            placements=PLACEMENTS,
        )
        yield checkout, engine, fake
    assert fake.violations == []


def deployed_variables(log: Path) -> dict[str, str]:
    """Return the variables of the dispatcher's container, as the provider of containers was given them."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (envs,) = [line["inputs"]["envs"] for line in lines if line["name"] == "dispatcher"]
    return dict(line.split("=", 1) for line in envs)


@contextlib.contextmanager
def dispatcher(
    directory: Path, given: dict[str, str], table: bytes, containers: OneMachineEngine
) -> Iterator[httpx.Client]:
    """Run a dispatcher with a stack's variables. Only ports and places are this host's."""
    port, data = free_port(), directory / "data"
    data.mkdir()
    with tarfile.open(fileobj=io.BytesIO(table)) as files:
        files.extractall(data, filter="data")
    placements = json.loads(given["SWITCHBOARD_PLACEMENTS"])
    placements["docker"]["engine_url"] = containers.url
    here = {
        "SWITCHBOARD_PORT": str(port),
        "SWITCHBOARD_DATA_DIR": str(data),
        "SWITCHBOARD_IMAGES_FILE": str(data / "images.json"),
        "SWITCHBOARD_PLACEMENTS": json.dumps(placements),
        "PATH": os.environ["PATH"],
    }
    with (directory / "dispatcher.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher"], cwd=REPOSITORY, env={**given, **here}, stderr=log
        )
    headers = {"Authorization": f"Bearer {KEY}", "Host": "voice.example.com"}
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=PATIENCE, verify=False
        ) as client:

            def ready() -> bool:
                assert process.poll() is None, (directory / "dispatcher.log").read_text()
                with contextlib.suppress(httpx.HTTPError):
                    return client.get("/readyz").is_success
                return False

            until("the dispatcher is ready", ready)
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_deployed_dispatcher_fails_over_and_down_sweeps_every_placement(
    stack: tuple[CheckoutCopy, StandInEngine, FakeFly], tmp_path: Path
) -> None:
    checkout, engine, fake = stack
    checkout.driver().up()
    app = "switchboard-local-overflow-echo-0"
    assert sorted(fake.apps) == ["switchboard-local-overflow", app]
    given = deployed_variables(tmp_path / "asked")
    assert engine.table is not None
    with (
        standing_in_for_one_machine() as containers,
        dispatcher(tmp_path, given, engine.table, containers) as client,
    ):
        for _ in range(2):
            answer = client.post("/start", params={"wait": "started"}, json={"transport": "webrtc"})
            assert answer.is_success, answer.text
    (container,) = containers.created.values()
    assert container["Image"].startswith("switchboard-local-bot-bot-agents:")
    assert "http://dispatcher:7860" in container["Cmd"]
    (machine,) = fake.apps[app].machines.values()
    config = machine.shown()["config"]
    assert config["image"].startswith("registry.fly.io/switchboard-local-overflow:bot-bot-agents-")
    assert "https://voice.example.com" in config["init"]["cmd"]

    engine.asked.clear()
    checkout.driver().destroy()
    assert fake.apps == {}
    assert [path for method, path in engine.asked if method == "DELETE" and "running-bot" in path]
