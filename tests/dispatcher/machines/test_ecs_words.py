"""Sentences of ECS, in the fleet's taxonomy and in words that say what to mend.

The sentences are AWS's: of the developer guide's pages on stopped tasks and API failures, and of
reports in public.
"""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.machines.provider import (
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)
from tests.ecs.fake import FakeEcs, Refusal
from tests.ecs.world import World, spec

ROLE = "User: arn:aws:sts::123456789012:assumed-role/switchboard-execution/0123456789abcdef"
SETUP = "ResourceInitializationError: unable to pull secrets or registry auth: "
RETRIED = "execution resource retrieval failed: "
LOGGER = "ResourceInitializationError: failed to validate logger args: "
STREAM = "create stream has been retried 1 times: failed to create Cloudwatch log stream: "
RUNTIME = (
    "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container "
    "process: "
)
MANIFEST = "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/bots@sha256:00"
SECRET = (
    "failed to fetch secret arn:aws:secretsmanager:us-east-1:123456789012:secret:bots-AbCdEf from secrets "
    "manager: "
)

NO_REGISTRY = (
    f"{SETUP}The task cannot pull registry auth from Amazon ECR: There is a connection issue between the "
    "task "
    "and Amazon ECR. Check your task network configuration. RequestError: send request failed caused by: "
    "Post "
    '"https://api.ecr.us-east-1.amazonaws.com/": dial tcp 52.94.0.1:443: i/o timeout'
)
NO_SECRETS_MANAGER = (
    f"{SETUP}{RETRIED}unable to retrieve secret from asm: There is a connection issue between the task and "
    "AWS "
    f"Secrets Manager. Check your task network configuration. {SECRET}RequestCanceled: request context "
    "canceled caused by: context deadline exceeded"
)
NO_LOGS = (
    f"{LOGGER}The task cannot find the Amazon CloudWatch log group defined in the task definition. There "
    "is a "
    "connection issue between the task and Amazon CloudWatch. Check your network configuration. : signal: "
    "killed"
)


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    assert made.ecs.violations == []


def answering(ecs: FakeEcs, failure: dict[str, str]) -> None:
    """Answer every RunTask with a failure."""
    ecs._run_task = lambda body: {"tasks": [], "failures": [failure]}


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        (f"{MANIFEST}failed to resolve ref {IMAGE}: not found", Rejected, "the registry does not have it"),
        (
            f"{MANIFEST}failed to resolve ref {IMAGE}: pulling from host failed with status code "
            "[manifests]: "
            "403 Forbidden",
            Rejected,
            "the image cannot be pulled: the execution role may not read it",
        ),
        (
            f"{MANIFEST}image Manifest does not contain descriptor matching platform 'linux/amd64'",
            Rejected,
            "the image is for another CPU: build it for the placement's `architecture`",
        ),
        (
            "CannotPullContainerError: dial tcp 52.94.0.1:443: i/o timeout",
            NoCapacity,
            "the image cannot be pulled: the registry does not answer from the task's subnet",
        ),
        (
            "CannotPullContainerError: ref pull has been retried 5 time(s): failed to copy: httpReadSeeker: "
            f"failed open: unexpected status code https://{IMAGE}: 500 Internal Server Error",
            NoCapacity,
            "the image cannot be pulled: CannotPull",
        ),
        (
            "CannotPullContainerError: ref pull has been retried 1 time(s): failed to extract layer "
            "sha256:00: "
            "write /var/lib/containerd/layer: no space left on device: unknown",
            Rejected,
            "the image does not fit in the task's storage",
        ),
        (NO_REGISTRY, NoCapacity, "the image cannot be pulled: the registry does not answer"),
        (
            f"{SETUP}{RETRIED}unable to retrieve ecr registry auth: service call has been retried 3 time(s): "
            f"AccessDeniedException: {ROLE} is not authorized to perform: ecr:GetAuthorizationToken on "
            "resource: * because no identity-based policy allows the ecr:GetAuthorizationToken action",
            Rejected,
            "the image cannot be pulled: the execution role may not read it",
        ),
        (
            f"{SETUP}{RETRIED}unable to retrieve secret from asm: service call has been retried 1 time(s): "
            f"{SECRET}ResourceNotFoundException: Secrets Manager can't find the specified secret.",
            Rejected,
            "a secret that the task definition names does not exist",
        ),
        (
            f"{SETUP}{RETRIED}unable to retrieve secret from asm: service call has been retried 1 time(s): "
            "retrieved secret from Secrets Manager did not contain json key OPENAI_API_KEY",
            Rejected,
            "a secret that the task definition names does not exist",
        ),
        (
            f"{SETUP}{RETRIED}unable to retrieve secret from asm: service call has been retried 1 time(s): "
            f"{SECRET}operation error Secrets Manager: GetSecretValue, https response error StatusCode: 400, "
            f"api error AccessDeniedException: {ROLE} is not authorized to perform: "
            "secretsmanager:GetSecretValue on resource: arn:aws:secretsmanager:us-east-1:123456789012:secret:"
            "bots-AbCdEf because no identity-based policy allows the secretsmanager:GetSecretValue action",
            Rejected,
            "a secret cannot be read: the execution role may not",
        ),
        (
            f"{SETUP}{RETRIED}unable to retrieve secrets from ssm: service call has been retried 1 time(s): "
            "invalid ssm parameters: /switchboard/openai",
            Rejected,
            "a secret that the task definition names does not exist",
        ),
        (NO_SECRETS_MANAGER, NoCapacity, "the secret store does not answer from the task's subnet"),
        (
            f"{LOGGER}{STREAM}ResourceNotFoundException: The specified log group does not exist. : exit "
            "status 1",
            Rejected,
            "the log group cannot be used: it does not exist",
        ),
        (
            f"{LOGGER}{STREAM}AccessDeniedException: {ROLE} is not authorized to perform: "
            "logs:CreateLogStream "
            "on resource: arn:aws:logs:us-east-1:123456789012:log-group:/bots:log-stream:bot/bot/0",
            Rejected,
            r"the log group cannot be used: the execution role may not write to it \(logs:CreateLogStream",
        ),
        (NO_LOGS, NoCapacity, "CloudWatch Logs does not answer from the task's subnet"),
        (
            f'{RUNTIME}exec: "/usr/bin/env": stat /usr/bin/env: no such file or directory: unknown',
            Rejected,
            "the container cannot start: its image lacks a program",
        ),
        (
            f'{RUNTIME}exec: "timeout": executable file not found in $PATH: unknown',
            Rejected,
            "the container cannot start: its image lacks a program",
        ),
        (
            f'{RUNTIME}exec: "/usr/bin/env": permission denied: unknown',
            Rejected,
            "the container cannot start: its image lacks a program.* or may not run it",
        ),
        (
            f"{RUNTIME}error during container init: error creating device nodes: mknod /dev/null: errno 524",
            NoCapacity,
            "ECS could not start the task",
        ),
        (
            "ECS was unable to assume the role 'arn:aws:iam::123456789012:role/switchboard-execution' "
            "that was "
            "provided for this task. Please verify that the role being passed has the proper trust "
            "relationship and permissions and that your IAM user has permissions to pass this role.",
            Rejected,
            "ECS may not assume the task definition's roles",
        ),
        ("Timeout waiting for network interface provisioning to complete.", NoCapacity, "could not start"),
        (
            "Capacity is unavailable at this time. Please try again later",
            NoCapacity,
            "Capacity is unavailable",
        ),
    ],
)
def test_a_task_that_does_not_start_twice_is_told_in_words(
    world: World, reason: str, kind: type[ProviderError], words: str
) -> None:
    world.ecs.not_starting = [reason, reason]
    with pytest.raises(kind, match=words) as caught:
        world.run(world.provider().create(spec()))
    assert type(caught.value) is kind
    assert reason in str(caught.value)
    tokens = {body["clientToken"] for name, body in world.ecs.calls if name == "RunTask"}
    assert len(tokens) == 2


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        (
            Refusal(
                "AccessDeniedException",
                f"{ROLE} is not authorized to perform: ecs:RunTask on resource: arn:aws:ecs:us-east-1:"
                "123456789012:task-definition/echo:1 because no identity-based policy allows the ecs:RunTask "
                "action",
            ),
            Rejected,
            "the dispatcher's role lacks a permission",
        ),
        (
            Refusal(
                "AccessDeniedException",
                f"{ROLE} is not authorized to perform: iam:PassRole on resource: "
                "arn:aws:iam::123456789012:role/"
                "no-capacity because no identity-based policy allows the iam:PassRole action",
            ),
            Rejected,
            "the dispatcher's role lacks a permission",
        ),
        (
            Refusal("UnrecognizedClientException", "The security token included in the request is invalid."),
            Rejected,
            "refuses the credentials",
        ),
        (Refusal("ClientException", "TaskDefinition not found."), Rejected, "TaskDefinition not found"),
        (
            Refusal("ClientException", "You've reached the limit of tasks in the PROVISIONING state"),
            Throttled,
            "PROVISIONING",
        ),
        (Refusal("InvalidParameterException", "No such subnet."), Rejected, "No such subnet"),
        (Refusal("ServerException", "Service is unavailable", 503), Unreachable, "ServerException"),
        (Refusal("ThrottlingException", "Rate exceeded"), Throttled, "Rate exceeded"),
    ],
)
def test_an_error_is_of_its_kind(
    world: World, refusal: Refusal, kind: type[ProviderError], words: str
) -> None:
    world.ecs.refusals["RunTask"] = [refusal] * 3
    with pytest.raises(kind, match=words) as caught:
        world.run(world.provider().create(spec()))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        ({"reason": "RESOURCE:ENI"}, NoCapacity),
        ({"reason": "RESOURCE:FARGATE"}, NoCapacity),
        ({"reason": "Capacity is unavailable at this time. Please try again later"}, NoCapacity),
        (
            {"reason": "You've reached the limit on the number of vCPUs you can run concurrently"},
            QuotaReached,
        ),
        ({"reason": "The requested CPU configuration is above your limit"}, QuotaReached),
        ({"reason": "SOMETHING NEW", "detail": "of which nothing is known"}, NoCapacity),
    ],
)
def test_a_failure_in_the_place_of_a_task_is_of_its_kind(
    world: World, failure: dict[str, str], kind: type[ProviderError]
) -> None:
    answering(world.ecs, failure)
    with pytest.raises(kind, match=failure["reason"]) as caught:
        world.run(world.provider().create(spec()))
    assert type(caught.value) is kind
