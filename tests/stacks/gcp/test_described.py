"""What a machine is made from, field by field, as Google's discovery documents describe it.

Pulumi's names are the API's but for plurals, and for a disk's and a secret's members, which the API nests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.gcp.discovery import document
from tests.stacks.aws.graph import Graph
from tests.stacks.gcp.test_jobs import AGENTS, GCP
from tests.stacks.gcp.test_program import graph

RUN, COMPUTE = document("run.v2.json"), document("compute.v1.json")

CONTAINER = {"commands": "command", "envs": "env"}
OF_INITIALIZATION = ("sourceImage", "diskSizeGb", "diskType", "labels")


@pytest.fixture(scope="module", params=["standard", "spot"])
def stack(request: pytest.FixtureRequest) -> Graph:
    found = graph(agents=AGENTS, gcp={**GCP, "capacity": request.param})
    assert found.error == ""
    return found


def whole(value: Any) -> Any:
    """Return a value with its whole numbers as such: the engine has floats alone."""
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def disk_of(given: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: one for name, one in given.items() if name not in OF_INITIALIZATION}
    starts = {name: given[name] for name in OF_INITIALIZATION if name in given}
    # JSON has numbers of 64 bits as text.
    return {**made, "initializeParams": {**starts, "diskSizeGb": str(int(given["diskSizeGb"]))}}


def properties_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template's inputs as the API's InstanceProperties."""
    return {
        "description": inputs["description"],
        "machineType": inputs["machineType"],
        "labels": inputs["labels"],
        "tags": {"items": inputs["tags"]},
        "metadata": {"items": [{"key": key, "value": one} for key, one in inputs["metadata"].items()]},
        "disks": [disk_of(one) for one in inputs["disks"]],
        "networkInterfaces": inputs["networkInterfaces"],
        "scheduling": inputs["scheduling"],
        "serviceAccounts": [inputs["serviceAccount"]],
        "shieldedInstanceConfig": inputs["shieldedInstanceConfig"],
    }


def container_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's inputs as the API's."""
    made = {CONTAINER.get(name, name): one for name, one in given.items()}
    made["ports"] = [made["ports"]] if isinstance(made.get("ports"), dict) else made.get("ports", [])
    return made


def test_template_of_vms_is_as_the_api_describes_it(stack: Graph) -> None:
    properties = whole(properties_of(stack.inputs("bots-page-template")))
    assert COMPUTE.schema_problems("InstanceProperties", properties) == []
    assert {"PREMIUM"} == {
        one["networkTier"] for each in properties["networkInterfaces"] for one in each["accessConfigs"]
    }


def test_task_of_a_job_is_as_the_api_describes_it(stack: Graph) -> None:
    task = dict(stack.inputs("jobs-phone-job")["template"]["template"])
    task["containers"] = [container_of(one) for one in task["containers"]]
    assert RUN.schema_problems("GoogleCloudRunV2TaskTemplate", whole(task)) == []


def test_container_of_the_dispatcher_is_as_the_api_describes_it(stack: Graph) -> None:
    template = stack.inputs("dispatcher-service")["template"]
    for one in template["containers"]:
        assert RUN.schema_problems("GoogleCloudRunV2Container", whole(container_of(one))) == []
    for one in template["volumes"]:
        assert RUN.schema_problems("GoogleCloudRunV2Volume", whole(one)) == []


def test_member_that_the_api_does_not_know_is_told() -> None:
    wrong = {"maxRetries": 0, "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN3", "retries": 1}
    problems = RUN.schema_problems("GoogleCloudRunV2TaskTemplate", wrong)
    assert len(problems) == 2
