"""A whole `aws` stack: which resources it has, and what the dispatcher is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.keys import hash_of
from dispatcher.machines.ecs.events import TaskEvents
from dispatcher.machines.ecs.settings import EcsPlacement
from dispatcher.machines.fly.settings import FlyPlacement
from dispatcher.settings import Settings
from stacks.aws.registry import ecr_repository
from tests.stacks.aws import described
from tests.stacks.aws.graph import Graph, recorded
from tests.stacks.aws.names import NO_SCHEMA

CHECKOUT = Path(__file__).resolve().parents[3]

KEY = {"name": "web", "hash": hash_of("sk_test"), "scope": "start"}
THEIRS = f"registry.example.com/theirs@sha256:{'1' * 64}"
AGENTS = {
    "echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"]},
    "theirs": {"bot": "bot.py", "image": THEIRS, "cpu": 1, "memoryMb": 1024},
}


def graph(**given: Any) -> Graph:
    values = {"cloud": "aws", "agents": AGENTS, "keys": [KEY], **given}
    config = {
        f"switchboard:{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
    return recorded(NO_SCHEMA, described.stack, config, str(CHECKOUT), {"ECHO_KEY": "hunter2-of-echo"})


@pytest.fixture(scope="module")
def plain() -> Graph:
    return graph()


def told(found: Graph) -> dict[str, str]:
    """Return the variables that the dispatcher's container gets, secret ones among them."""
    (container,) = json.loads(found.inputs("dispatcher-task")["containerDefinitions"])
    secrets = json.loads(found.inputs("dispatcher-secrets-values")["secretString"])
    assert {one["name"] for one in container["secrets"]} == set(secrets)
    return {one["name"]: one["value"] for one in container["environment"]} | secrets


def test_the_dispatcher_starts_with_what_it_is_told(plain: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    # The ids are the recorder's, and no resource of AWS has such: the settings refuse them.
    ids = {"network-us-east-1a-id": "subnet-0000000a", "network-us-east-1b-id": "subnet-0000000b"}
    for name, value in told(plain).items():
        for ours, theirs in {**ids, "network-bots-id": "sg-00000000"}.items():
            value = value.replace(ours, theirs)
        monkeypatch.setenv(name, value)
    found = Settings()  # type: ignore[call-arg]
    (placement,) = found.placements.values()
    assert isinstance(placement, EcsPlacement)
    assert placement.subnets == ("subnet-0000000a", "subnet-0000000b")
    assert placement.task_definitions == {
        "echo": "switchboard-prod-echo:1",
        "theirs": "switchboard-prod-theirs:1",
    }
    assert placement.images["theirs"] == THEIRS
    assert (found.database_url or "").startswith(
        "postgresql://switchboard:recorded-secret-of-256-bits-or-more@store."
    )
    assert found.public_url == "https://front-distribution.recorded.example.com"
    assert found.machine_url == found.public_url, "a task has no other way to the dispatcher"


def test_events_of_the_stack_are_those_that_its_dispatcher_takes(plain: Graph) -> None:
    given = plain.inputs("events-connection")["authParameters"]["apiKey"]
    key = told(plain)["SWITCHBOARD_ECS_EVENTS_KEY"]
    wanted = json.loads(plain.inputs("events-rule")["eventPattern"])
    assert wanted["detail"]["lastStatus"] == ["STOPPED"]
    arn = "arn:aws:ecs:us-east-1:123456789012:task/switchboard-prod/0123"
    event = {
        "source": wanted["source"][0],
        "detail-type": wanted["detail-type"][0],
        "detail": {"taskArn": arn, "version": 3, "startedBy": "switchboard/m-1", "lastStatus": "STOPPED"},
    }
    taken = TaskEvents(key)
    taken.check({given["key"]: given["value"]})
    assert taken.read(json.dumps(event).encode()) == "m-1"
    destination = plain.inputs("events-destination")
    assert destination["invocationEndpoint"] == (
        "https://front-distribution.recorded.example.com/webhooks/machines/ecs"
    )
    paths = json.loads((CHECKOUT / "docs" / "openapi.json").read_text())["paths"]
    assert "post" in paths["/webhooks/machines/{provider}"]


def test_nothing_of_what_is_deployed_is_a_stand_in(plain: Graph) -> None:
    everything = json.dumps([one.inputs for one in plain.resources.values()])
    for stand_in in ("not-built-yet", "not-made-yet", "not known yet", "subnet-00000000", "sg-00000000"):
        assert stand_in not in everything


def test_no_secret_is_in_the_open(plain: Graph) -> None:
    hidden = {"bots-echo-secrets-values", "dispatcher-secrets-values", "store", "events-connection"}
    shown = json.dumps([one.inputs for name, one in plain.resources.items() if name not in hidden])
    assert "hunter2" not in shown
    assert "recorded-secret" not in shown
    assert "hunter2-of-echo" not in told(plain).values(), "an agent's variables are not the dispatcher's"


def test_sizes_are_rounded_up_to_what_fargate_has(plain: Graph) -> None:
    task = plain.inputs("bots-theirs-task")
    assert (task["cpu"], task["memory"]) == ("1024", "2048")
    assert "the next size above 1 vCPU with 1024 MB" in plain.result["prices"]["theirs"]["of"]


def test_images_are_built_for_ecr_with_zstd_and_a_cache(plain: Graph) -> None:
    image = plain.inputs("bot-bot-agents-image")
    (export,) = image["exports"]
    assert (export["registry"]["compression"], export["registry"]["push"]) == ("zstd", True)
    (cache,) = image["cacheTo"]
    assert cache["registry"]["ref"].endswith("/registry-cache:bot-bot-agents")
    assert cache["registry"]["imageManifest"] is True, "ECR takes no other cache"
    assert set(plain.of_type("aws:ecr/repository:Repository")) == {
        "registry-dispatcher",
        "registry-bot-bot-agents",
        "registry-cache",
    }


def test_bots_tasks_end_after_the_dispatcher_and_before_their_cluster(plain: Graph) -> None:
    assert "tasks" in plain.resources["dispatcher-service"].dependencies
    assert {"bots-cluster", "network-bots"} <= set(plain.resources["tasks"].dependencies)


def test_a_second_placement_has_a_network_and_a_registry_in_its_region() -> None:
    placements = {"virginia": {"cloud": "aws"}, "frankfurt": {"cloud": "aws", "region": "eu-central-1"}}
    found = graph(placements=placements)
    assert found.error == ""
    assert found.inputs("frankfurt-network-eu-central-1a")["availabilityZone"] == "eu-central-1a"
    assert found.resources["frankfurt-bots-echo-task"].region == "eu-central-1"
    assert (
        found.inputs("frankfurt-registry-bot-bot-agents")["name"]
        == "switchboard-prod-frankfurt/bot-bot-agents"
    )
    placed = json.loads(told(found)["SWITCHBOARD_PLACEMENTS"])
    assert {name: one["region"] for name, one in placed.items()} == {
        "frankfurt": "eu-central-1",
        "virginia": "us-east-1",
    }
    assert found.resources["frankfurt-events-rule"].region == "eu-central-1"
    policy = json.loads(found.inputs("dispatcher-task-policy")["policy"])
    assert len({one["Sid"] for one in policy["Statement"]}) == len(policy["Statement"])


def test_image_of_another_repository_in_ecr_may_be_pulled() -> None:
    image = f"210987654321.dkr.ecr.eu-west-1.amazonaws.com/team/bot:7@sha256:{'1' * 64}"
    found = graph(agents={"theirs": {"bot": "bot.py", "image": image}})
    statements = json.loads(found.inputs("bots-execution-policy")["policy"])["Statement"]
    (pull,) = [one for one in statements if one["Sid"] == "PullImages"]
    assert pull["Resource"] == ["arn:aws:ecr:eu-west-1:210987654321:repository/team/bot"]
    assert "ecr:GetAuthorizationToken" in json.dumps(statements)


@pytest.mark.parametrize(
    ("image", "arn"),
    [
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com/b:1", "aws-us-gov:ecr:us-gov-west-1"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/b", "aws-cn:ecr:cn-north-1"),
        ("123456789012.dkr-ecr.us-east-1.on.aws/b:1", "aws:ecr:us-east-1"),
        ("public.ecr.aws/acme/b:1", None),
        ("registry.example.com/123456789012.dkr.ecr.us-east-1.amazonaws.com/b:1", None),
    ],
)
def test_repository_in_ecr_is_known_by_its_images_name(image: str, arn: str | None) -> None:
    assert ecr_repository(image) == (arn and f"arn:{arn}:123456789012:repository/b")


MIXED: dict[str, Any] = {
    "aws": {"domain": "voice.example.com"},
    "agents": {"echo": {**AGENTS["echo"], "placements": ["aws", "overflow"]}},
    "placements": {"aws": {"cloud": "aws"}, "overflow": {"cloud": "fly", "regions": ["iad"]}},
}


def test_dispatcher_at_aws_has_bots_at_fly_beside_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = graph(**MIXED)
    assert found.error == ""
    given = told(found)
    ids = {"network-us-east-1a-id": "subnet-0000000a", "network-us-east-1b-id": "subnet-0000000b"}
    for name, value in given.items():
        for ours, theirs in {**ids, "network-bots-id": "sg-00000000"}.items():
            value = value.replace(ours, theirs)
        monkeypatch.setenv(name, value)
    made = Settings()  # type: ignore[call-arg]
    assert made.agents["echo"].placements == ("aws", "overflow-echo")
    fly = made.placements["overflow-echo"]
    assert isinstance(fly, FlyPlacement)
    assert fly.apps == ("switchboard-prod-overflow-echo-0",)
    assert fly.machine_url == "https://voice.example.com", "machines at Fly call the public name"
    assert fly.images["echo"].startswith("registry.fly.io/switchboard-prod-overflow@sha256:")
    assert sorted(json.loads(given["SWITCHBOARD_FLY_API_TOKEN"])) == ["switchboard-prod-overflow-echo-0"]
    # Fly's is a secret of the dispatcher's task, and none of its statements is about another cloud.
    (container,) = json.loads(found.inputs("dispatcher-task")["containerDefinitions"])
    assert "SWITCHBOARD_FLY_API_TOKEN" in {one["name"] for one in container["secrets"]}
    sids = [one["Sid"] for one in json.loads(found.inputs("dispatcher-task-policy")["policy"])["Statement"]]
    assert all(sid.endswith("Bots") for sid in sids)
    assert "overflow-echo-machines-0" in found.resources["dispatcher-service"].dependencies
    assert found.result["botsElsewhere"] == {"fly": ["switchboard-prod-overflow-echo-0"]}
    assert found.result["bots"] == ["us-east-1:/switchboard-prod/bots"]


def test_dispatcher_at_aws_may_have_all_its_bots_at_fly() -> None:
    only = {"placements": {"overflow": {"cloud": "fly"}}, "agents": {"echo": AGENTS["echo"]}}
    found = graph(**{**MIXED, **only})
    assert found.error == ""
    assert "dispatcher-task-policy" not in found.resources
    assert "SWITCHBOARD_ECS_EVENTS_KEY" not in told(found)


def test_bots_at_fly_need_a_public_name_of_the_dispatcher() -> None:
    refused = graph(**{**MIXED, "aws": {}}).error
    assert refused.startswith("switchboard:placements.overflow.cloud: 'fly' is refused, since machines there")
    assert refused.endswith(
        "allowed: aws, or a host with a public name (with switchboard:aws.domain, its public name)"
    )


def test_database_of_ones_own_takes_the_place_of_rds() -> None:
    found = graph(databaseUrl="postgresql://me:hunter2@db.example.com/x")
    assert "store" not in found.resources
    assert told(found)["SWITCHBOARD_DATABASE_URL"] == "postgresql://me:hunter2@db.example.com/x"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keys": []}, "keys: is missing, and a dispatcher at AWS is public"),
        ({"aws": {"zoneId": "Z1"}}, "domain: is missing, and zoneId is there"),
        ({"aws": {"vpcId": "vpc-01234567"}}, "subnetIds: is missing, and vpcId is there"),
        ({"aws": {"region": "us-west-1"}}, "zones: is missing, and in us-west-1 not every account has"),
        (
            {"aws": {"dispatcherCpu": 0.25, "dispatcherMemoryMb": 1536}},
            "allowed: 2048 with 0.25, the next larger",
        ),
        ({"aws": {"cidr": "8.8.0.0/16"}}, "allowed: a private IPv4 network"),
        ({"aws": {"udpPorts": [60000, 50000]}}, "allowed: the first before the last"),
        ({"aws": {"budgetUsd": 100}}, "alarmEmail: is missing, and budgetUsd is there"),
        (
            {"agents": {"echo": {"bot": "bot/agents/echo.py", "cpu": 32}}},
            "agents.echo: cpu 32 with memory_mb .* is more than Fargate has",
        ),
        (
            {"agents": {"dispatcher": {"bot": "bot/agents/echo.py"}}},
            "switchboard:agents.dispatcher: is refused at AWS, where switchboard-prod-dispatcher is the",
        ),
        (
            {"placements": {"dispatcher": {"cloud": "aws"}}},
            "switchboard:placements.dispatcher: is refused at AWS",
        ),
        (
            {
                "agents": {"echo": {"bot": "bot/agents/echo.py"}, "x-echo": {"bot": "bot/agents/echo.py"}},
                "placements": {"aws": {"cloud": "aws"}, "x": {"cloud": "aws"}},
            },
            "switchboard:placements.x: makes the task definition switchboard-prod-x-echo in us-east-1, and",
        ),
        (
            {
                "agents": {"echo": {"bot": "bot/agents/echo.py", "placements": ["aws"]}},
                "placements": {"aws": {"cloud": "aws"}, "spare": {"cloud": "aws"}},
            },
            "switchboard:placements.spare: no agent's machines may be there; allowed: ",
        ),
    ],
)
def test_what_cannot_be_deployed_is_refused_before_an_engine_runs(
    given: dict[str, Any], message: str
) -> None:
    import re

    assert re.search(message, graph(**given).error)
