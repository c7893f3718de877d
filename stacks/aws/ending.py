"""The end of bots' tasks: the dispatcher makes them, no state knows them, and the stack's end is theirs.

The resource is made before the dispatcher and deleted after it, when nobody starts bots any more. ECS does
not delete a cluster that has tasks, nor EC2 a security group that their interfaces are in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pulumi
from pulumi.dynamic import (
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from stacks.errors import StackError
from stacks.shared.dynamic import end_with_engine, plain_errors

INPUTS = ("cluster", "region", "profile")

END_SECONDS = 180
"""For tasks to end once they are told to: a bot has 30 s after its SIGTERM, and then Fargate takes its
network interface away."""

PAUSE_SECONDS = 2.0

REASON = "the stack is taken down"

MOST_DESCRIBED = 100
"""Tasks that one DescribeTasks tells of."""


class AwsError(StackError):
    """AWS did not do what it was asked."""


class TasksProvider(ResourceProvider):
    """Nothing is made; at the end, what the dispatcher made is ended."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["cluster"], {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # Another cluster: what runs in the old one ends. Another profile is only another way to it.
        changed = [key for key in INPUTS if _olds.get(key) != _news.get(key)]
        return DiffResult(changes=bool(changed), replaces=[key for key in changed if key != "profile"])

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({key: _news[key] for key in INPUTS})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        end_all(client(_props["region"], _props["profile"]), _props["cluster"])


class Tasks(Resource, module="switchboard", name="AwsTasks"):
    """The bots' tasks of a cluster."""

    def __init__(
        self,
        name: str,
        *,
        cluster: pulumi.Input[str],
        region: str,
        profile: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Describe them. `profile`: as of `aws:profile`; empty: the SDK's default credentials."""
        super().__init__(
            TasksProvider(), name, {"cluster": cluster, "region": region, "profile": profile}, opts
        )


def client(region: str, profile: str, service: str = "ecs") -> Any:
    """Return a client of a service's API. Raises AwsError for a profile that is not there."""
    import botocore.session
    from botocore.exceptions import ProfileNotFound

    try:
        session = botocore.session.Session(profile=profile or None)
        return session.create_client(service, region_name=region)
    except ProfileNotFound as error:
        raise AwsError(f"aws:profile: {error}; allowed: a profile of ~/.aws/config") from None


def end_all(
    ecs: Any,
    cluster: str,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Stop every task of a cluster, and wait until none is left.

    Raises:
        AwsError: AWS refuses, or some are still there after `END_SECONDS`.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    until = clock() + END_SECONDS
    told: set[str] = set()
    try:
        while left := _ending(ecs, cluster, told):
            if clock() >= until:
                shown = ", ".join(one.rpartition("/")[2] for one in left[:5])
                raise AwsError(
                    f"{len(left)} tasks of the cluster {cluster} did not end within {END_SECONDS} s: "
                    f"{shown}; try again, or stop them in the ECS console"
                )
            sleep(PAUSE_SECONDS)
    except (BotoCoreError, ClientError) as error:
        if getattr(error, "response", {}).get("Error", {}).get("Code") == "ClusterNotFoundException":
            return
        raise AwsError(f"the tasks of the cluster {cluster} could not be ended: {error}") from None


def _ending(ecs: Any, cluster: str, told: set[str]) -> list[str]:
    """Tell tasks to stop that were not told yet; return those that have not ended."""
    for page in ecs.get_paginator("list_tasks").paginate(cluster=cluster):
        for task in page["taskArns"]:
            if task not in told:
                ecs.stop_task(cluster=cluster, task=task, reason=REASON)
                told.add(task)
    found, every = [], sorted(told)
    for start in range(0, len(every), MOST_DESCRIBED):
        answer = ecs.describe_tasks(cluster=cluster, tasks=every[start : start + MOST_DESCRIBED])
        found += [one["taskArn"] for one in answer["tasks"] if one["lastStatus"] != "STOPPED"]
    return found
