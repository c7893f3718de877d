"""A changed setting plans the same for Terraform's AWS provider at moto as for the Pulumi engine."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.stacks.aws import described
from tests.stacks.aws.graph import recorded
from tests.stacks.aws.moto_server import Moto
from tests.stacks.aws.terraform import Terraform, document, needs_terraform, schema
from tests.stacks.aws.test_engine import KEY, asked, prepared
from tests.stacks.aws.test_terraform import FORGOTTEN
from tests.stacks.checkouts import REPOSITORY, CheckoutCopy
from tests.stacks.test_placements import texts

__all__ = ["asked", "prepared"]

pytestmark = needs_terraform

ALWAYS = {"availability_zone_rebalancing"}
"""Arguments that moto does not keep, so that each plan of Terraform's sets them anew."""

IMAGE = "registry.example.com/theirs@sha256:"

AGENTS: dict[str, Any] = {
    "echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"]},
    "theirs": {"bot": "bot.py", "image": IMAGE + "1" * 64},
}

CHANGES: dict[str, tuple[list[str], Any]] = {
    "an agent's size": (["agents", "echo", "cpu"], 4),
    "an image's digest": (["agents", "theirs", "image"], IMAGE + "2" * 64),
    "retention": (["aws", "logDays"], 60),
    "dispatchers": (["aws", "dispatchers"], 3),
}


def changed(base: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(base)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def by_terraform(terraform: Terraform, moto: Moto, config: dict[str, Any]) -> dict[str, str]:
    """Return what Terraform's provider plans: logical name → operation."""
    write(terraform, moto, config)
    terraform.run("plan", "-input=false", "-no-color", "-out=plan")
    found = {}
    for one in json.loads(terraform.run("show", "-json", "plan"))["resource_changes"]:
        change = one["change"]
        name = one["address"].partition(".")[2]
        if len(change["actions"]) == 2:
            found[name] = "replace"
        elif change["actions"] == ["update"]:
            before, after = change["before"], change["after"]
            differ = {key for key in after if after[key] != before.get(key)} | set(change["after_unknown"])
            if differ - ALWAYS:
                found[name] = "update"
        elif change["actions"] != ["no-op"]:
            found[name] = change["actions"][0]
    return found


def write(terraform: Terraform, moto: Moto, config: dict[str, Any]) -> None:
    given = {f"switchboard:{name}": value for name, value in texts(config).items()}
    graph = recorded(schema(), described.stack, given, str(REPOSITORY), {"ECHO_KEY": "hunter2-of-echo"})
    assert graph.error == ""
    terraform.write(document(graph, schema(), moto.url, excluded=FORGOTTEN))


def by_engine(checkout: CheckoutCopy, config: dict[str, Any]) -> dict[str, str]:
    """Return what the engine previews: logical name → operation."""
    checkout.write_config(**config)
    checkout.lines.clear()
    checkout.driver().preview()
    lines = [re.fullmatch(r"  \S+ (\S+): (create|update|replace|delete)\b.*", one) for one in checkout.lines]
    return {one[1]: one[2] for one in lines if one is not None}


@pytest.mark.long
def test_changed_setting_plans_what_the_engine_previews(
    terraform: Terraform, moto: Moto, prepared: CheckoutCopy, asked: Path
) -> None:
    made = moto.client("acm").request_certificate(DomainName="voice.example.com")
    base = {
        "cloud": "aws",
        "keys": [KEY],
        "agents": AGENTS,
        "aws": {
            "domain": "voice.example.com",
            "certificateArn": made["CertificateArn"],
            "logDays": 30,
            "dispatchers": 2,
        },
    }
    write(terraform, moto, {**base, "throwaway": "true"})
    terraform.validate()
    terraform.apply()
    prepared.write_config(**base)
    prepared.driver().up()
    seen = {}
    for what, (path, value) in CHANGES.items():
        config = changed(base, path, value)
        seen[what] = by_engine(prepared, config)
        assert by_terraform(terraform, moto, {**config, "throwaway": "true"}) == seen[what], what
    assert seen["retention"] == {"bots-log": "update", "dispatcher-log": "update"}
    assert seen["dispatchers"] == {"dispatcher-service": "update"}
    assert seen["an image's digest"].get("bots-theirs-task") == "replace"
    assert seen["an agent's size"].get("bots-echo-task") == "replace"
