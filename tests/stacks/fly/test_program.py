"""Config and program of a `fly` stack: what is refused, what it describes, and who gets which secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from pulumi.runtime import rpc

from dispatcher import unprivileged
from dispatcher.settings import Settings
from dispatcher.transports.daily.settings import DailyShared
from stacks.config import StackConfig, parse
from stacks.deployment import Environment
from stacks.errors import ConfigError
from stacks.fly.dispatcher import machine_config
from stacks.fly.settings import NOT_BUILT, host_names
from tests.patience import PATIENCE
from tests.stacks.local.test_program import REPOSITORY, run
from tests.stacks.planning import plan_of, settings_with_stand_ins

KEY = {"name": "web", "hash": f"sha256:{'0' * 64}", "scope": "start"}
AGENTS = {
    "echo": {"bot": "bot/agents/echo.py", "transports": ["daily"]},
    "voice": {"bot": "bot/agents/voice.py", "transports": ["daily"], "env": ["OPENAI_API_KEY"]},
}
DAILY = {"domain": "acme", "domainId": "d1"}


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2-of-openai")


def config(fly: dict[str, Any] | None = None, **values: Any) -> StackConfig:
    given = {"cloud": "fly", "agents": AGENTS, "keys": [KEY], "daily": DAILY, "fly": fly or {}, **values}
    text = {
        f"switchboard:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in given.items()
    }
    return parse(text, project="switchboard", checkout=REPOSITORY, stack="prod")


def settings(found: StackConfig) -> Settings:
    return settings_with_stand_ins(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"keys": []},
            "switchboard:keys: is missing, and a dispatcher at Fly is public; allowed: a list of",
        ),
        (
            {"fly": {"regions": []}},
            r"fly\.regions: \[\] is refused; allowed: a list of at least one region's",
        ),
        (
            {"fly": {"regions": ["iad", "iad"]}},
            r"regions: \['iad', 'iad'\] names one twice; allowed: each once",
        ),
        (
            {"fly": {"dispatchers": 2}},
            r"fly\.dispatchers: 2 is refused.*allowed: 1, or more with databaseUrl",
        ),
        (
            {"fly": {"dispatcherCpus": 3}},
            r"fly\.dispatcherCpus: 3 is no size of a machine of kind shared; allowed: 1, 2, 4, 6, 8",
        ),
        (
            {"fly": {"dispatcherMemoryMb": 8192}},
            r"fly\.dispatcherMemoryMb: 8192 is refused for 2 CPUs of kind shared; allowed: 512 to 4096",
        ),
        (
            {"fly": {"shard": 2}},
            r"fly\.shard: is not a key; allowed: base, vad, media, compression, torchIndex, org",
        ),
        ({"fly": {"dispatcherMemoryMb": 1000}}, "allowed: a multiple of 256, 256 to 131072"),
        ({"daily": {"domain": "acme.daily.co"}}, r"daily\.domain: .* allowed: the name of a Daily domain"),
        ({"cloud": "local", "flyApiToken": "x"}, "flyApiToken: is there, and cloud is local; allowed: only"),
        (
            {"cloud": "docker", "databaseUrl": "x"},
            "databaseUrl: is there, and cloud is docker",
        ),
    ],
)
def test_a_bad_value_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"agents": {"echo": {**AGENTS["echo"], "placements": ["iad"]}}},
            r"agents\.echo\.placements\[0\]: \'iad\' is not a placement of the stack; allowed: fly",
        ),
        (
            {"agents": {"a" * 50: AGENTS["echo"]}},
            "its app would be called switchboard-prod-a{50}-0, of 69 characters; allowed: 63",
        ),
        (
            {"databaseUrl": "mysql://me:hunter2@db/x"},
            "^(?!.*hunter2)switchboard:databaseUrl: allowed is a URL that",
        ),
        ({"agents": {"echo": {**AGENTS["echo"], "cpu": 32}}}, "largest machine of kind 'performance'"),
    ],
)
def test_what_only_the_whole_tells_is_refused_before_an_engine_runs(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(config(**given))


def test_a_stacks_name_that_is_no_apps_is_told() -> None:
    with pytest.raises(ConfigError, match=r"fly\.prefix: is not there, and 'switchboard-My_Stack'"):
        host_names(Environment("switchboard", "My_Stack", REPOSITORY, config()))
    named = Environment("switchboard", "My_Stack", REPOSITORY, config({"prefix": "acme"}))
    assert host_names(named).dispatcher == "acme"


def test_each_agent_has_apps_of_its_own_and_the_dispatcher_knows_them() -> None:
    found = settings(config({"shards": 2, "regions": ["lhr", "iad"], "cpuKind": "shared"}))
    placements = {name: placement.model_dump() for name, placement in found.placements.items()}
    assert {name: one["apps"] for name, one in placements.items()} == {
        "echo": ("switchboard-prod-echo-0", "switchboard-prod-echo-1"),
        "voice": ("switchboard-prod-voice-0", "switchboard-prod-voice-1"),
    }
    assert {(one["region"], one["cpu_kind"]) for one in placements.values()} == {("lhr,iad", "shared")}
    assert found.agents["voice"].placements == ("voice",)
    assert found.machine_url == "https://switchboard-prod.fly.dev"


def test_apps_that_are_to_go_keep_their_machines_and_get_no_new_ones() -> None:
    found = settings(config({"shards": 1, "drainingShards": 2}))
    placement = found.placements["voice"].model_dump()
    assert placement["apps"] == ("switchboard-prod-voice-0",)
    assert placement["draining_apps"] == ("switchboard-prod-voice-1", "switchboard-prod-voice-2")


def test_bots_reach_the_dispatcher_though_its_domain_does_not_lead_anywhere_yet() -> None:
    found = settings(config({"domain": "voice.example.com"}))
    assert found.public_url == "https://voice.example.com"
    assert found.machine_url == "https://switchboard-prod.fly.dev"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAILY_API_KEY", "hunter2-of-daily")
        patch.setenv("OPENAI_API_KEY", "hunter2-of-openai")
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "key=hunter2-of-traces")
        return run(
            cloud="fly",
            agents=json.dumps(AGENTS),
            keys=json.dumps([KEY]),
            daily=json.dumps(DAILY),
            databaseUrl="postgresql://user:hunter2-of-postgres@db.internal/switchboard",
            fly=json.dumps(
                {"dispatchers": 2, "domain": "voice.example.com", "prefix": "acme", "drainingShards": 1}
            ),
        )


def inputs(described: dict[str, Any], name: str) -> dict[str, Any]:
    return described["resources"][name]["inputs"]


def secrets(described: dict[str, Any], name: str) -> dict[str, str]:
    return rpc.unwrap_rpc_secret(inputs(described, name)["values"])


def test_replicas_share_a_database_and_are_replaced_one_after_the_other(described: dict[str, Any]) -> None:
    resources = described["resources"]
    assert "store" not in resources
    for number in (0, 1):
        machine = inputs(described, f"dispatcher-{number}")
        assert machine["name"] == f"acme-{number}"
        assert machine["config"]["init"]["entrypoint"][-2:] == ["-m", "dispatcher"]
        assert "mounts" not in machine["config"]
        assert machine["secretsVersion"] == 3, "it sees the secrets of this up, or waits for them"
    assert "RUN_AS" not in inputs(described, "dispatcher-image")["buildArgs"]
    assert described["outputs"]["url"] == "https://voice.example.com"
    assert described["outputs"]["records"] == ["voice.example.com A 192.0.2.1"]
    price = described["outputs"]["prices"]["voice"]
    assert price["of"].startswith("performance-1x with 2048 MB")
    assert 0.00001 < price["usdPerSecond"] < 0.0001


def test_who_gets_which_secret(described: dict[str, Any]) -> None:
    given = secrets(described, "dispatcher-secrets")
    assert given["SWITCHBOARD_DAILY_API_KEY"] == "hunter2-of-daily"
    assert given["SWITCHBOARD_DATABASE_URL"].startswith("postgresql://user:hunter2")
    assert given["OTEL_EXPORTER_OTLP_HEADERS"] == "key=hunter2-of-traces"
    apps = {f"acme-{agent}-{shard}" for agent in ("echo", "voice") for shard in (0, 1)}
    assert json.loads(given["SWITCHBOARD_FLY_API_TOKEN"]) == dict.fromkeys(apps, "FlyV1 fm2_recorded"), (
        "one for each bot app, and for one that is to go"
    )
    assert len(json.loads(given["SWITCHBOARD_SECRETS"])[0]) >= 32
    for shard in (0, 1):
        assert secrets(described, f"voice-secrets-{shard}") == {"OPENAI_API_KEY": "hunter2-of-openai"}
    assert "echo-secrets-0" not in described["resources"]
    readable = json.dumps(
        [described["outputs"], *(inputs(described, f"dispatcher-{number}") for number in (0, 1))]
    )
    assert "hunter2" not in readable
    assert "fm2_" not in readable


def test_the_dispatcher_starts_with_what_it_is_told(
    described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**inputs(described, "dispatcher-0")["config"]["env"], **secrets(described, "dispatcher-secrets")}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = Settings()  # type: ignore[call-arg]
    assert set(found.agents) == {"echo", "voice"}
    assert found.shared("daily", DailyShared).api_key is not None
    assert found.agents["echo"].image == f"bot-bot-agents-image@sha256:{'0' * 64}"


def test_nothing_of_what_is_deployed_is_a_stand_in(described: dict[str, Any]) -> None:
    everything = json.dumps(described["resources"])
    assert NOT_BUILT not in everything
    assert "not known yet" not in everything


def test_images_are_pushed_to_flys_registry_for_its_hosts(described: dict[str, Any]) -> None:
    for name in ("dispatcher-image", "bot-bot-agents-image"):
        image = inputs(described, name)
        assert (image["push"], image["load"], image["platforms"]) == (True, False, ["linux/amd64"])
        assert image["tags"][0].startswith(f"registry.fly.io/acme:{name.removesuffix('-image')}-")
        (login,) = rpc.unwrap_rpc_secret(image["registries"])
        assert (login["username"], login["password"]) == ("x", "fm2_recorded")


def test_a_dispatcher_with_a_volume_gives_it_to_its_user(described: dict[str, Any]) -> None:
    from stacks.fly.dispatcher import DispatcherArgs

    class Args:
        image, environment, cpu_kind, cpus, memory_mb, tags = "image", {}, "shared", 2, 1024, {}

    args: DispatcherArgs = Args()  # type: ignore[assignment]
    made = machine_config(args, "vol_1")
    assert made["mounts"] == [{"volume": "vol_1", "path": "/data"}]
    assert made["init"]["entrypoint"][2:4] == ["-m", "dispatcher.unprivileged"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something away")
def test_whoever_starts_as_root_is_nobody_special_afterwards() -> None:
    # Not below a directory of pytest's, into which nobody else may look.
    with tempfile.TemporaryDirectory() as data:
        said = subprocess.run(
            [
                sys.executable,
                "-m",
                "dispatcher.unprivileged",
                "/bin/sh",
                "-c",
                "id -u; id -G; touch $0/written",
                data,
            ],
            env={**os.environ, unprivileged.DATA_DIR_VARIABLE: data},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert said.stdout.split() == ["10001", "10001"]
        assert (Path(data) / "written").stat().st_uid == 10001


def test_it_is_told_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SWITCHBOARD_DATA_DIR", raising=False)
    assert unprivileged.main(["/bin/true"]) == 2
    assert "SWITCHBOARD_DATA_DIR" in capsys.readouterr().err
    monkeypatch.setenv("SWITCHBOARD_DATA_DIR", "/nowhere/at/all")
    assert unprivileged.main(["/bin/true"]) == 1
    assert "/nowhere/at/all: No such file or directory" in capsys.readouterr().err
