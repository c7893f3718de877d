"""RunTask's request for a machine, down to the last member."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bot.protocol import BOT_FILE_VARIABLE, without_secrets
from dispatcher.machines.deadline import command
from dispatcher.machines.provider import MACHINE_VARIABLE, MachineSpec, Rejected, thread_variables

if TYPE_CHECKING:
    from types_aiobotocore_ecs.type_defs import (
        CapacityProviderStrategyItemTypeDef,
        ContainerOverrideTypeDef,
        NetworkConfigurationUnionTypeDef,
        RunTaskRequestTypeDef,
        TaskOverrideUnionTypeDef,
    )

OVERRIDE_CHARACTERS = 8192
"""Limit on a task's overrides as JSON; the API's."""

ON_DEMAND, SPOT = "FARGATE", "FARGATE_SPOT"


@dataclass(frozen=True, slots=True)
class Place:
    """The common part of all machines of a placement."""

    deployment: str
    cluster: str
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    task_definitions: Mapping[str, str]
    assign_public_ip: bool = True
    container: str = "bot"
    spot: bool = False
    platform_version: str = "LATEST"
    log_group: str = ""
    propagate_tags: bool = False
    late: timedelta = timedelta(seconds=30)
    """Time after its session's deadline at which a machine ends itself."""

    def owner(self, machine_id: str) -> str:
        """The `startedBy` of a machine's tasks. Tags would do as well, but StopTask deletes them."""
        return f"{self.deployment}/{machine_id}"

    def machine_id(self, started_by: str) -> str:
        """The machine whose task has this `startedBy`; empty if it is not this deployment's."""
        deployment, slash, machine_id = started_by.partition("/")
        return machine_id if slash and deployment == self.deployment else ""

    def token(self, machine_id: str, attempt: int) -> str:
        """The `clientToken` of a machine's task: ECS gives one task for it, however often it is asked.

        All zones and kinds of capacity have the same one: a caller that finds capacity where another one did
        not is refused by the other's task.
        """
        return hashlib.sha256(f"{self.owner(machine_id)}/{attempt}".encode()).hexdigest()

    def offers(self, without: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield kinds of capacity with subnets, in the order in which they are asked for.

        All subnets first, of which Fargate picks one, then each alone: the one that it picked may be in the
        only zone that is full.

        Args:
            without: A subnet in which a task could not be started; the last to be tried.
        """
        subnets = tuple(one for one in self.subnets if one != without) or self.subnets
        for kind in (SPOT, ON_DEMAND) if self.spot else (ON_DEMAND,):
            yield kind, subnets
            if len(subnets) > 1:
                yield from ((kind, (one,)) for one in subnets)


def overrides(place: Place, spec: MachineSpec) -> TaskOverrideUnionTypeDef:
    """Return what one machine's task has of its own.

    It holds nothing that is secret for longer than the machine lives: DescribeTasks shows all of it.

    Raises:
        Rejected: It is larger than the API allows.
    """
    seconds = math.ceil((spec.max_duration + place.late).total_seconds())
    variables = {
        "HOME": "/tmp",  # noqa: S108 - its own
        **thread_variables(spec.cpu),
        BOT_FILE_VARIABLE: spec.bot_file,
        MACHINE_VARIABLE: spec.id,
        # Not the agent's own: they are secrets of the task definition, and ECS adds them.
        **spec.environment,
    }
    container: ContainerOverrideTypeDef = {
        "name": place.container,
        "command": [*command(seconds), *without_secrets(spec.arguments)],
        "environment": [{"name": name, "value": value} for name, value in variables.items()],
    }
    made: TaskOverrideUnionTypeDef = {"containerOverrides": [container]}
    size = len(json.dumps(made))
    if size > OVERRIDE_CHARACTERS:
        raise Rejected(
            f"the machine's overrides have {size} characters, and ECS allows {OVERRIDE_CHARACTERS}: make the "
            "agent's `arguments` shorter, or put them into its image"
        )
    return made


def run_task(
    place: Place, spec: MachineSpec, attempt: int, kind: str, subnets: Sequence[str]
) -> RunTaskRequestTypeDef:
    """Return the request for a machine's task.

    Raises:
        Rejected: There is no task definition for its agent, or it is too large.
    """
    if (definition := place.task_definitions.get(spec.agent)) is None:
        raise Rejected(
            f"taskDefinitions has none for agent '{spec.agent}'; it has: {', '.join(place.task_definitions)}"
        )
    network: NetworkConfigurationUnionTypeDef = {
        "awsvpcConfiguration": {
            "subnets": list(subnets),
            "securityGroups": list(place.security_groups),
            "assignPublicIp": "ENABLED" if place.assign_public_ip else "DISABLED",
        }
    }
    made: RunTaskRequestTypeDef = {
        "cluster": place.cluster,
        "taskDefinition": definition,
        "count": 1,
        "clientToken": place.token(spec.id, attempt),
        "startedBy": place.owner(spec.id),
        "platformVersion": place.platform_version,
        "networkConfiguration": network,
        "overrides": overrides(place, spec),
        "enableExecuteCommand": False,
    }
    if place.spot:
        strategy: CapacityProviderStrategyItemTypeDef = {"capacityProvider": kind, "weight": 1}
        made["capacityProviderStrategy"] = [strategy]
    else:
        made["launchType"] = "FARGATE"
    if place.propagate_tags:
        made["propagateTags"] = "TASK_DEFINITION"
    return made
