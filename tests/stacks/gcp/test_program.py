"""A whole `gcp` stack: which resources it has, and what the dispatcher is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.keys import hash_of
from dispatcher.machines.compute_engine.settings import ComputeEnginePlacement
from dispatcher.settings import Settings
from stacks.config import parse
from stacks.errors import ConfigError
from tests.stacks.aws import described
from tests.stacks.aws.graph import Graph, recorded
from tests.stacks.aws.names import NO_SCHEMA
from tests.stacks.planning import plan_of

CHECKOUT = Path(__file__).resolve().parents[3]

KEY = {"name": "web", "hash": hash_of("sk_test"), "scope": "start"}
THEIRS = f"registry.example.com/theirs@sha256:{'1' * 64}"
AGENTS = {
    "echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"]},
    "theirs": {"bot": "bot.py", "image": THEIRS, "transports": ["daily"], "cpu": 2, "memoryMb": 4096},
}
DAILY = {"domain": "voice", "domainId": "0ab6b8f3-1f0b-4a5e-9d5e-6c2f0e0f4d11"}
PROJECT = "voice-prod-1234"
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"


def config(**given: Any) -> dict[str, str]:
    """Return a stack's config, as the engine hands it over."""
    values: dict[str, Any] = {"cloud": "gcp", "gcp": {}, "agents": AGENTS, "keys": [KEY], "daily": DAILY}
    values |= given
    values["gcp"] = {"project": PROJECT, **values["gcp"]}
    return {
        f"switchboard:{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def graph(**given: Any) -> Graph:
    environment = {"ECHO_KEY": "hunter2-of-echo", "DAILY_API_KEY": "hunter2-of-daily"}
    return recorded(NO_SCHEMA, described.stack, config(**given), str(CHECKOUT), environment)


@pytest.fixture(scope="module")
def plain() -> Graph:
    found = graph()
    assert found.error == ""
    return found


def container(found: Graph) -> dict[str, Any]:
    (one,) = found.inputs("dispatcher-service")["template"]["containers"]
    return one


def told(found: Graph) -> dict[str, str]:
    """Return the variables that the dispatcher gets, secret ones among them."""
    values = {
        one.inputs["secretId"]: found.inputs(f"{name}-value")["secretData"]
        for name, one in found.of_type("gcp:secretmanager/secret:Secret").items()
    }
    told = {}
    for one in container(found)["envs"]:
        source = one.get("valueSource")
        told[one["name"]] = values[source["secretKeyRef"]["secret"]] if source else one["value"]
    return told


def test_the_dispatcher_starts_with_what_it_is_told(plain: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in told(plain).items():
        monkeypatch.setenv(name, value)
    found = Settings()  # type: ignore[call-arg]
    (placement,) = found.placements.values()
    assert isinstance(placement, ComputeEnginePlacement)
    assert placement.zones == ("us-central1-a", "us-central1-b", "us-central1-c")
    assert placement.templates == {
        "echo": "regions/us-central1/instanceTemplates/switchboard-prod-echo-0000000",
        "theirs": "regions/us-central1/instanceTemplates/switchboard-prod-theirs-0000000",
    }
    assert placement.images["theirs"] == THEIRS
    assert found.database_url == (
        "postgresql://switchboard:recorded-secret-of-256-bits-or-more@/switchboard"
        f"?host=/cloudsql/{PROJECT}:us-central1:store-0000000"
    )
    assert found.public_url == "https://switchboard-prod-dispatcher-123456789012.us-central1.run.app"
    assert found.machine_url == found.public_url, "a machine has no other way to the dispatcher"
    assert found.drain_seconds == 0, "Cloud Run ends an instance 10 s after it is told"


def test_nothing_of_what_is_deployed_is_a_stand_in(plain: Graph) -> None:
    everything = json.dumps([one.inputs for one in plain.resources.values()])
    for stand_in in ("not-built-yet", "not-made-yet", "not known yet"):
        assert stand_in not in everything


def test_no_secret_is_in_the_open(plain: Graph) -> None:
    hidden = {name for name in plain.resources if name.endswith("-value")} | {"database-user"}
    # The builder's login, which the engine keeps encrypted.
    hidden |= set(plain.of_type("docker-build:index:Image"))
    shown = json.dumps([one.inputs for name, one in plain.resources.items() if name not in hidden])
    assert "hunter2" not in shown
    assert "recorded-secret" not in shown
    assert "hunter2-of-echo" not in told(plain).values(), "an agent's variables are not the dispatcher's"


def test_each_secret_has_one_reader(plain: Graph) -> None:
    readers = plain.of_type("gcp:secretmanager/secretIamMember:SecretIamMember").values()
    by_secret = {one.inputs["secretId"]: one.inputs["member"] for one in readers}
    assert len(by_secret) == len(readers) == len(plain.of_type("gcp:secretmanager/secret:Secret"))
    account = f"@{PROJECT}.iam.gserviceaccount.com"
    assert by_secret["switchboard-prod-echo"] == f"serviceAccount:switchboard-prod-echo{account}"
    assert {one for name, one in by_secret.items() if "-dispatcher-" in name} == {
        f"serviceAccount:switchboard-prod-dispatcher{account}"
    }


def test_machine_types_fit_what_agents_ask_for(plain: Graph) -> None:
    types = {name: one.inputs["machineType"] for name, one in plain.of_type(TEMPLATE).items()}
    assert types == {"bots-echo-template": "e2-medium", "bots-theirs-template": "e2-standard-2"}
    assert "a VM e2-medium with 10 GB of disk" in plain.result["prices"]["echo"]["of"]


def test_callers_reach_bots_over_udp_only_where_agents_offer_webrtc(plain: Graph) -> None:
    firewall = "gcp:compute/firewall:Firewall"
    (rule,) = plain.of_type(firewall).values()
    assert rule.inputs["allows"] == [{"protocol": "udp", "ports": ["32768-60999"]}]
    assert rule.inputs["targetTags"] == plain.inputs("bots-echo-template")["tags"]
    without = graph(agents={"theirs": AGENTS["theirs"]})
    assert without.of_type(firewall) == {}


def test_cloud_nat_takes_the_place_of_public_addresses_where_it_is_asked_for(plain: Graph) -> None:
    assert plain.of_type("gcp:compute/routerNat:RouterNat") == {}
    (interface,) = plain.inputs("bots-echo-template")["networkInterfaces"]
    assert len(interface["accessConfigs"]) == 1
    found = graph(agents={"theirs": AGENTS["theirs"]}, gcp={"nat": True})
    (interface,) = found.inputs("bots-theirs-template")["networkInterfaces"]
    assert interface.get("accessConfigs", []) == []
    assert found.inputs("network-nat")["enableEndpointIndependentMapping"] is True
    (role,) = [one for name, one in found.resources.items() if name == "bots-subnet-role"]
    assert role.inputs["permissions"] == ["compute.subnetworks.use"]


def test_existing_network_gets_a_rule_and_nothing_else() -> None:
    found = graph(gcp={"network": "shared", "subnetwork": "voice"})
    assert {name for name in found.resources if name.startswith("network")} == {"network-media"}
    (interface,) = found.inputs("bots-echo-template")["networkInterfaces"]
    assert interface["subnetwork"] == f"projects/{PROJECT}/regions/us-central1/subnetworks/voice"


def test_images_of_live_revisions_are_never_cleaned_up(plain: Graph) -> None:
    repositories = plain.of_type("gcp:artifactregistry/repository:Repository")
    for one in repositories.values():
        (policy,) = one.inputs["cleanupPolicies"]
        assert (policy["action"], policy["condition"]["tagState"]) == ("DELETE", "UNTAGGED")
        assert one.inputs["cleanupPolicyDryRun"] is False
    assert plain.inputs("registry-images")["dockerConfig"] == {"immutableTags": True}


def test_bots_vms_end_after_the_dispatcher_and_before_their_subnet(plain: Graph) -> None:
    assert "machines" in plain.resources["dispatcher-service"].dependencies
    assert "network-subnet" in plain.resources["machines"].dependencies
    assert plain.inputs("machines")["zones"] == ["us-central1-a", "us-central1-b", "us-central1-c"]


def test_zone_that_is_given_up_keeps_its_calls() -> None:
    found = graph(gcp={"zones": ["a", "b"], "drainingZones": ["c"]})
    placed = json.loads(told(found)["SWITCHBOARD_PLACEMENTS"])["gcp"]
    assert placed["zones"] == ["us-central1-a", "us-central1-b"]
    assert placed["draining_zones"] == ["us-central1-c"]
    every = ["us-central1-a", "us-central1-b", "us-central1-c"]
    assert found.inputs("machines")["zones"] == every
    condition = found.inputs("dispatcher-bots-machines")["condition"]["expression"]
    assert all(f'"{zone}"' in condition for zone in every)


def test_spot_vms_end_where_google_takes_them(plain: Graph) -> None:
    scheduling = graph(gcp={"capacity": "spot"}).inputs("bots-echo-template")["scheduling"]
    assert scheduling == {
        "automaticRestart": False,
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
        "preemptible": True,
        "provisioningModel": "SPOT",
    }
    assert plain.inputs("bots-echo-template")["scheduling"]["provisioningModel"] == "STANDARD"


def test_the_dispatcher_always_runs(plain: Graph) -> None:
    template = plain.inputs("dispatcher-service")["template"]
    assert template["scaling"] == {"maxInstanceCount": 2, "minInstanceCount": 2}
    assert container(plain)["resources"]["cpuIdle"] is False
    assert template["timeout"] == "3600s"


def test_the_store_is_kept_unless_the_stack_is_throw_away(plain: Graph) -> None:
    kept, gone = plain.resources["store"], graph(throwaway="true").resources["store"]
    assert (kept.protected, kept.retained, gone.protected, gone.retained) == (True, True, False, False)
    settings = kept.inputs["settings"]
    assert settings["connectorEnforcement"] == "REQUIRED"
    assert "authorizedNetworks" not in settings["ipConfiguration"]


def test_database_of_ones_own_takes_the_place_of_cloud_sql() -> None:
    found = graph(databaseUrl="postgresql://me:hunter2@db.example.com/x")
    assert "store" not in found.resources
    assert told(found)["SWITCHBOARD_DATABASE_URL"] == "postgresql://me:hunter2@db.example.com/x"
    assert found.inputs("dispatcher-service")["template"].get("volumes", []) == []
    assert "dispatcher-connects" not in found.resources
    assert "alarms-storage" not in found.resources


def test_domain_gets_its_records_printed() -> None:
    found = graph(gcp={"domain": "voice.example.com"})
    assert found.result["records"] == ["voice.example.com CNAME ghs.googlehosted.com."]
    assert told(found)["SWITCHBOARD_PUBLIC_URL"] == "https://voice.example.com"


def test_second_placement_has_a_network_and_a_registry_in_its_region() -> None:
    placements = {"iowa": {"cloud": "gcp"}, "london": {"cloud": "gcp", "region": "europe-west1"}}
    found = graph(placements=placements)
    assert found.error == ""
    assert found.inputs("london-network-subnet")["region"] == "europe-west1"
    assert found.inputs("london-registry-images")["location"] == "europe-west1"
    placed = json.loads(told(found)["SWITCHBOARD_PLACEMENTS"])
    assert placed["london"]["zones"] == ["europe-west1-b", "europe-west1-c", "europe-west1-d"]
    assert placed["london"]["deployment"] != placed["iowa"]["deployment"]


def test_bots_at_other_clouds_are_named_for_the_logs() -> None:
    fly = {"cloud": "fly", "org": "personal", "regions": ["iad"]}
    found = graph(gcp={"domain": "voice.example.com"}, placements={"gcp": {"cloud": "gcp"}, "overflow": fly})
    assert found.error == ""
    assert found.result["bots"] == [f"{PROJECT}:switchboard-prod"]
    assert list(found.result["botsElsewhere"]) == ["fly"]


def test_alerts_tell_an_address_only_where_there_is_one(plain: Graph) -> None:
    alert = "gcp:monitoring/alertPolicy:AlertPolicy"
    told_ = graph(gcp={"alarmEmail": "ops@example.com"})
    assert set(told_.of_type(alert)) == {
        f"alarms-{one}" for one in ("errors", "cpu", "memory", "storage", "log")
    }
    assert all(one.inputs["notificationChannels"] for one in told_.of_type(alert).values())
    assert all(not one.inputs.get("notificationChannels") for one in plain.of_type(alert).values())
    board = json.loads(plain.inputs("alarms-dashboard")["dashboardJson"])
    titles = [tile["widget"]["title"] for tile in board["mosaicLayout"]["tiles"]]
    assert len(titles) == 6
    storage = plain.inputs("alarms-storage")["conditions"][0]["conditionThreshold"]["filter"]
    assert f'database_id = "{PROJECT}:store-0000000"' in storage


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keys": []}, "keys: is missing, and a dispatcher at Google Cloud is public"),
        ({"gcp": {"project": ""}}, r"switchboard:gcp.project: is missing; allowed: the id of a project"),
        ({"gcp": {"network": "shared"}}, "subnetwork: is missing, and network is there"),
        ({"gcp": {"zones": ["a", "a"]}}, "zones: .* names one twice"),
        ({"gcp": {"drainingZones": ["a"]}}, "drainingZones: 'a' is given twice"),
        ({"gcp": {"cidr": "8.8.0.0/16"}}, "allowed: a private IPv4 network"),
        ({"gcp": {"udpPorts": [60000, 50000]}}, "allowed: the first before the last"),
        (
            {"gcp": {"machineType": "n1-standard-1"}},
            "machineType: 'n1-standard-1' is refused; allowed: e2-small",
        ),
        (
            {"gcp": {"machineType": "e2-small"}},
            "agents.echo: cpu 1 .* allowed: at most 0.5 vCPU with 1536 MB",
        ),
        (
            {"gcp": {"alarms": False, "alarmEmail": "a@example.com"}},
            "alarms: is off, and alarmEmail is there",
        ),
        ({"gcp": {"nat": True}}, "gcp.nat: true is refused, since the agent 'echo' offers webrtc"),
        (
            {"agents": {"echo": {"bot": "bot/agents/echo.py", "cpu": 64}}},
            "agents.echo: cpu 64 .* allowed: at most 32 vCPU with 130560 MB",
        ),
    ],
)
def test_what_cannot_be_deployed_is_refused_before_an_engine_runs(
    given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    with pytest.raises(ConfigError, match=message):
        plan_of(parse(config(**given), project="switchboard", checkout=CHECKOUT, stack="prod"))
