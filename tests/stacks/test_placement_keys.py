"""Every key of a placement, of each cloud, has an effect in an entry of `placements`, or is refused there."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from dispatcher.keys import hash_of
from stacks.config import CLOUDS
from tests.stacks.aws import described
from tests.stacks.aws.graph import recorded
from tests.stacks.aws.names import NO_SCHEMA
from tests.stacks.local.test_program import run
from tests.stacks.planning import REPOSITORY
from tests.stacks.test_placements import texts

KEY = {"name": "web", "hash": hash_of("sk_test"), "scope": "start"}
DIGEST = f"sha256:{'1' * 64}"

HOSTS: dict[str, dict[str, Any]] = {
    "docker": {"docker": {"domain": "voice.example.com", "registry": "registry.example.com/team"}},
    "fly": {"fly": {"prefix": "acme"}},
    "aws": {},
    "gcp": {"gcp": {"project": "voice-prod-1234"}},
}
"""Keys of a stack whose host is a cloud."""

VPC: dict[str, Any] = {"vpcId": "vpc-01234567", "subnetIds": ["subnet-01234567", "subnet-11234567"]}

IMAGES: dict[str, Any] = {
    "base": "registry.example.com/python:3.13",
    "vad": "torch",
    "media": "video",
    "compression": "zstd",
    "torchIndex": "default",
}

GIVEN: dict[str, dict[str, Any]] = {
    "docker": {**IMAGES, "models": "voices"},
    "fly": {
        **IMAGES,
        "org": "acme",
        "prefix": "other",
        "regions": ["lhr"],
        "shards": 3,
        "drainingShards": 2,
        "cpuKind": "shared",
        "tokenDays": 60,
    },
    "aws": {
        **IMAGES,
        "compression": "gzip",
        "region": "eu-central-1",
        "zones": ["a", "c"],
        "cidr": "10.65.0.0/16",
        "vpcId": "vpc-0fedcba9",
        "subnetIds": ["subnet-01234567", "subnet-21234567"],
        "capacity": "spot",
        "architecture": "arm64",
        "udpPorts": [40000, 50000],
        "secrets": "ssm",
        "interfaceEndpoints": True,
        "logDays": 7,
    },
    "gcp": {
        **IMAGES,
        "compression": "gzip",
        "project": "voice-other-1234",
        "region": "europe-west4",
        "zones": ["b"],
        "drainingZones": ["f"],
        "machines": "job",
        "machineType": "e2-standard-8",
        "capacity": "spot",
        "diskGb": 30,
        "cidr": "10.70.0.0/20",
        "network": "theirs",
        "subnetwork": "theirs-too",
        "nat": True,
        "udpPorts": [40000, 50000],
    },
}
"""Cloud → key → a value that is not its default."""

NETWORK: dict[str, Any] = {"network": "ours", "subnetwork": "ours-too"}

BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("aws", "vpcId"): VPC,
    ("aws", "subnetIds"): VPC,
    ("gcp", "network"): NETWORK,
    ("gcp", "subnetwork"): NETWORK,
}
"""Keys that another one cannot be without."""


def keys_of_placements() -> list[tuple[str, str]]:
    """Return the cloud and the name of each key."""
    return [
        (cloud, info.alias or name)
        for cloud, of in CLOUDS.items()
        if of.placement_keys is not None
        for name, info in of.placement_keys.model_fields.items()
    ]


@functools.cache
def outcome(host: str, name: str, cloud: str, entry: str) -> tuple[str, str]:
    """Return the resources of a stack, as text, or the refusal."""
    placements = {host: {"cloud": host}, name: {"cloud": cloud, **json.loads(entry)}}
    agent = {"bot": "bot/agents/echo.py", "env": ["A_KEY"], "transports": ["webrtc"]}
    values = {
        "cloud": host,
        "keys": [KEY],
        "agents": {"echo": agent},
        "placements": placements,
        **HOSTS[host],
    }
    if cloud in ("aws", "gcp"):
        config = {f"switchboard:{key}": value for key, value in texts(values).items()}
        found = recorded(NO_SCHEMA, described.stack, config, str(REPOSITORY), {"A_KEY": "hunter2"})
        resources = {one.name: (one.type, one.inputs, one.region) for one in found.resources.values()}
        return json.dumps(resources, sort_keys=True), found.error
    described_ = run(by_environment=False, **texts(values))
    return json.dumps(described_.get("resources"), sort_keys=True), described_.get("error", "")


@pytest.mark.parametrize(("cloud", "key"), keys_of_placements())
def test_key_of_the_hosts_own_placement_counts(cloud: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(cloud, cloud, cloud, key, monkeypatch)


@pytest.mark.parametrize(
    ("cloud", "key"), [(cloud, key) for cloud, key in keys_of_placements() if cloud != "docker"]
)
def test_key_of_a_placement_beside_the_hosts_own_counts(
    cloud: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack has one Docker engine, and so no placement beside its host's."""
    check("docker" if cloud == "fly" else cloud, "more", cloud, key, monkeypatch)


def check(host: str, name: str, cloud: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "hunter2")
    beside = BESIDE.get((cloud, key), {})
    before, refused = outcome(host, name, cloud, json.dumps(beside))
    assert refused == ""
    after, refused = outcome(host, name, cloud, json.dumps({**beside, key: GIVEN[cloud][key]}))
    if refused:
        assert refused.startswith(f"switchboard:placements.{name}.{key}: ")
        assert "; allowed: " in refused
    else:
        assert after != before, f"placements.{name}.{key} is ignored"
