"""A dispatcher that has nothing but what its stack made for it, at moto's ECS.

Terraform's AWS provider applies the stack. The container of the service that is then at moto is read as ECS
reads it: its variables, and its secrets from the store that it names. `python -m dispatcher` gets exactly
these, and what `HERE` and `as_at_aws` say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.keys import hash_of
from tests.dispatcher.command import Command
from tests.patience import PATIENCE
from tests.stacks.aws import described
from tests.stacks.aws.graph import recorded
from tests.stacks.aws.moto_server import Moto
from tests.stacks.aws.policies import Request, allows
from tests.stacks.aws.terraform import Terraform, document, needs_terraform, schema
from tests.stacks.aws.test_terraform import FORGOTTEN
from tests.stacks.checkouts import REPOSITORY, until
from tests.stacks.test_placements import texts

KEY = "sk_test"
DOMAIN = "voice.example.com"
BOTS = "switchboard-prod"
DISPATCHERS = f"{BOTS}-dispatcher"

HERE = ("PATH", "SWITCHBOARD_PORT", "SWITCHBOARD_DATA_DIR")
"""Variables that are this machine's own: at AWS a task has its ports and its disk for itself."""


def applied(terraform: Terraform, moto: Moto, database_url: str) -> None:
    """Bring a stack up that has a domain with a certificate, and a database of one's own."""
    certificate = moto.client("acm").request_certificate(DomainName=DOMAIN)["CertificateArn"]
    config = {
        "cloud": "aws",
        "keys": [{"name": "web", "hash": hash_of(KEY), "scope": "start"}],
        "agents": {"echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"], "memoryMb": 2048}},
        "aws": {"domain": DOMAIN, "certificateArn": certificate},
        "databaseUrl": database_url,
        "throwaway": True,
    }
    given = {f"switchboard:{name}": value for name, value in texts(config).items()}
    graph = recorded(schema(), described.stack, given, str(REPOSITORY), {"ECHO_KEY": "hunter2-of-echo"})
    assert graph.error == ""
    terraform.write(document(graph, schema(), moto.url, excluded=FORGOTTEN))
    terraform.validate()
    terraform.apply()


def service_definition(moto: Moto) -> dict[str, Any]:
    """Return the task definition that the dispatcher's service runs."""
    ecs = moto.client("ecs")
    (service,) = ecs.describe_services(cluster=DISPATCHERS, services=["dispatcher"])["services"]
    return ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]


def variables_of(moto: Moto, container: dict[str, Any]) -> dict[str, str]:
    """Return a container's environment as ECS gives it: `valueFrom` is `ARN:key:stage:version`."""
    found = {one["name"]: one["value"] for one in container["environment"]}
    store = moto.client("secretsmanager")
    for one in container["secrets"]:
        arn, key, stage, version = one["valueFrom"].rsplit(":", 3)
        assert (stage, version) == ("", "")
        found[one["name"]] = json.loads(store.get_secret_value(SecretId=arn)["SecretString"])[key]
    return found


def as_at_aws(moto: Moto) -> dict[str, str]:
    """Return the variables for the SDK in place of the task's role and the region's endpoint."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_ENDPOINT_URL_ECS": moto.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def granted(moto: Moto, role_arn: str) -> list[dict[str, Any]]:
    """Return the statements of a role's policies, as IAM has them."""
    iam, role = moto.client("iam"), role_arn.rpartition("/")[2]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policies = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    return [statement for policy in policies for statement in policy["Statement"]]


def the_task(moto: Moto) -> dict[str, Any]:
    """Return the one task of the bots' cluster, ended or not."""
    ecs = moto.client("ecs")
    arns = [
        arn
        for status in ("RUNNING", "STOPPED")
        for arn in ecs.list_tasks(cluster=BOTS, desiredStatus=status)["taskArns"]
    ]
    (task,) = ecs.describe_tasks(cluster=BOTS, tasks=arns, include=["TAGS"])["tasks"]
    return task


def subnets_of(task: dict[str, Any]) -> set[str]:
    details = [detail for one in task["attachments"] for detail in one["details"]]
    return {one["value"] for one in details if one["name"] == "subnetId"}


def assert_allowed(moto: Moto, statements: list[dict[str, Any]], task: dict[str, Any]) -> None:
    """Assert that the dispatcher's role may make the calls that it made about this task."""
    here = {"ecs:cluster": task["clusterArn"]}
    resources = {
        "ecs:RunTask": (task["taskDefinitionArn"], {**here, "ecs:enable-execute-command": "false"}),
        "ecs:DescribeTasks": (task["taskArn"], here),
        "ecs:StopTask": (task["taskArn"], here),
        "ecs:ListTasks": ("*", here),
    }
    made = moto.calls(by="aiobotocore")
    assert {"ecs:RunTask", "ecs:StopTask"} <= set(made)
    for action in made:
        assert allows(statements, Request(action, *resources[action])), action
    definition = moto.client("ecs").describe_task_definition(taskDefinition=task["taskDefinitionArn"])
    for name in ("taskRoleArn", "executionRoleArn"):
        passed = Request(
            "iam:PassRole",
            definition["taskDefinition"][name],
            {"iam:PassedToService": "ecs-tasks.amazonaws.com"},
        )
        assert allows(statements, passed), name


def assert_is_of(task: dict[str, Any], session_id: str, moto: Moto) -> None:
    """Assert that a task is this session's, as the stack has it."""
    assert task["lastStatus"] == "RUNNING"
    assert task["startedBy"] == f"switchboard/m-{session_id}"
    assert task["taskDefinitionArn"].endswith(f":task-definition/{BOTS}-echo:1")
    made = moto.client("ec2").describe_subnets(Filters=[{"Name": "tag:stack", "Values": ["prod"]}])
    assert subnets_of(task) <= {one["SubnetId"] for one in made["Subnets"]}
    (override,) = task["overrides"]["containerOverrides"]
    assert override["name"] == "bot"
    assert override["command"][0] == "timeout"
    assert f"https://{DOMAIN}" in " ".join(override["command"]), "its channel leads to the public name"
    variables = {one["name"]: one["value"] for one in override["environment"]}
    assert (variables["SWITCHBOARD_BOT_FILE"], variables["SWITCHBOARD_MACHINE_ID"]) == (
        "echo.py",
        f"m-{session_id}",
    )
    assert "hunter2" not in json.dumps(override)


@needs_terraform
@pytest.mark.long
def test_dispatcher_runs_a_session_with_what_its_stack_made(
    terraform: Terraform, moto: Moto, postgres_url: str, tmp_path: Path
) -> None:
    applied(terraform, moto, postgres_url)
    definition = service_definition(moto)
    (container,) = definition["containerDefinitions"]
    given = variables_of(moto, container)
    command = Command(tmp_path)
    own = {name: command.environment[name] for name in HERE}
    assert not {*as_at_aws(moto)} & {*given}, "the SDK finds the task's role by itself"
    command.environment = {**given, **own, **as_at_aws(moto)}
    # Callers reach it by its public name alone.
    called = {"host": DOMAIN, "authorization": f"Bearer {KEY}"}
    log = tmp_path / "log"
    with (
        log.open("w") as lines,
        command.serving(lines),
        httpx.Client(base_url=command.url, headers=called, trust_env=False, timeout=PATIENCE) as http,
    ):
        answer = http.post("/start", params={"wait": "started"})
        assert answer.status_code == 200, answer.text + log.read_text()
        started = answer.json()
        task = the_task(moto)
        assert_is_of(task, started["sessionId"], moto)
        own_token = {"authorization": f"Bearer {started['sessionToken']}"}
        ended = http.delete(f"/sessions/{started['sessionId']}", headers=own_token)
        assert ended.is_success, ended.text + log.read_text()
        until("its task is stopped", lambda: the_task(moto)["lastStatus"] == "STOPPED")
    command.http.close()
    assert_allowed(moto, granted(moto, definition["taskRoleArn"]), task)
