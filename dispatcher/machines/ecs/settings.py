"""The settings of placements at Amazon ECS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from dispatcher.header_secret import HeaderSecret
from dispatcher.machines.ecs.sizes import fargate_size
from dispatcher.machines.settings import Agent, PlacementSettings, ProviderContext
from dispatcher.plugins import SharedSettings

if TYPE_CHECKING:
    from dispatcher.clock import Clock
    from dispatcher.machines.provider import MachineProvider
    from dispatcher.machines.settings import MachineEvents

Subnet = Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]
SecurityGroup = Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")]
TaskDefinition = Annotated[
    str,
    # Without a revision ECS would take the latest one: a start would change with somebody's `register`.
    Field(
        pattern=r"^(arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:task-definition/)?[A-Za-z0-9_-]{1,255}:[0-9]+$"
    ),
]
Capacity = Literal["fargate", "spot"]


class EcsShared(SharedSettings):
    """Settings of all placements at ECS."""

    access_key_id: str | None = Field(default=None, pattern=r"^[A-Z0-9]{16,128}$")
    """Access key for the ECS API, for a dispatcher outside AWS. By default the credentials of its own task
    role, or what else the AWS SDK finds."""
    secret_access_key: SecretStr | None = None
    """Secret of `ecs_access_key_id`."""
    api_url: str = Field(default="", pattern=r"^(https?://[^/@?#]+)?$")
    """The ECS API, for a VPC endpoint with a name of its own. By default that of the placement's region."""
    events_key: HeaderSecret | None = Field(default=None, min_length=16)
    """Secret with which EventBridge delivers task events, in the header `x-switchboard-key` of an API
    destination. Without it no events are taken, and ended machines are found by asking."""


class EcsPlacement(PlacementSettings):
    """Machines are Fargate tasks. A task definition per agent has the image, the size, and what the agent's
    `env` names, as its secrets."""

    shared: ClassVar[type[SharedSettings]] = EcsShared
    needs_image: ClassVar[bool] = False
    on_other_hosts: ClassVar[bool] = True

    provider: Literal["ecs"]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """Machine provider of the placement."""
    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]+$")
    """The AWS region, such as `eu-central-1`."""
    cluster: str = Field(pattern=r"^(arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:cluster/)?[A-Za-z0-9_-]{1,255}$")
    """The ECS cluster, by name or ARN. Its tasks are listed, so give the bots one of their own."""
    subnets: tuple[Subnet, ...] = Field(min_length=1, max_length=16)
    """The subnets that tasks may be placed in: at least one in each of several zones. Fargate picks one; if
    that zone is full, the others are tried."""
    security_groups: tuple[SecurityGroup, ...] = Field(min_length=1, max_length=5)
    """The security groups of tasks. Outbound traffic is enough, but for sessions over `webrtc`."""
    assign_public_ip: bool = True
    """Give each task a public IPv4 address. Without one its subnets need a NAT gateway."""
    task_definitions: Mapping[str, TaskDefinition] = Field(min_length=1)
    """Agent → its task definition, `family:revision`. The entry point of its container must run the
    container's command as it is: `["/usr/bin/env"]`."""
    container: str = Field(default="bot", pattern=r"^[A-Za-z0-9_-]{1,255}$")
    """Name of the bot's container in the task definitions."""
    capacity: Capacity = "fargate"
    """`spot`: tasks run on Fargate Spot, and on-demand where that has no capacity. AWS may end a Spot task
    two minutes after a notice, in the middle of a call."""
    platform_version: str = Field(default="LATEST", pattern=r"^(LATEST|[0-9]+\.[0-9]+\.[0-9]+)$")
    """Fargate's platform version."""
    deployment: str = Field(default="switchboard", pattern=r"^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?$")
    """Tells this deployment's tasks from others in the same cluster: `startedBy` begins with it."""
    log_group: str = Field(default="", pattern=r"^[A-Za-z0-9_./#-]{0,512}$")
    """The log group in which the task definitions' `awslogs` driver writes, for telling where a machine's log
    is."""

    propagate_tags: bool = False
    """Give each task the tags of its task definition, by which AWS's bills and budgets tell costs apart. The
    dispatcher then needs `ecs:TagResource` for RunTask."""

    @model_validator(mode="after")
    def _none_twice(self) -> Self:
        for name, given in (("subnets", self.subnets), ("securityGroups", self.security_groups)):
            for one in given:
                if given.count(one) > 1:
                    raise ValueError(f"{name}: '{one}' is given twice; allowed: each once")
        return self

    def check(self, name: str, shared: SharedSettings) -> None:
        """Check that an access key is whole."""
        given = EcsShared.of(shared)
        if (given.access_key_id is None) != (given.secret_access_key is None):
            missing = "ecs_access_key_id" if given.access_key_id is None else "ecs_secret_access_key"
            raise ValueError(
                f"{missing} is missing; allowed: both ecs_access_key_id and ecs_secret_access_key, or none"
            )

    def check_agent(self, name: str, agent: Agent) -> None:
        if name not in self.task_definitions:
            allowed = ", ".join(self.task_definitions)
            raise ValueError(f"taskDefinitions has none for this agent; it has: {allowed}")
        fargate_size(agent.cpu, agent.memory_mb)

    @classmethod
    def events(cls, shared: SharedSettings, clock: Clock) -> MachineEvents | None:
        given = EcsShared.of(shared).events_key
        if given is None:
            return None
        from dispatcher.machines.ecs.events import TaskEvents

        return TaskEvents(given.get_secret_value())

    def build(self, context: ProviderContext) -> MachineProvider:
        # The SDK is a third of the time of a dispatcher's imports.
        from dispatcher.machines.ecs.client import EcsApi
        from dispatcher.machines.ecs.connection import Connection, Credentials
        from dispatcher.machines.ecs.provider import EcsProvider
        from dispatcher.machines.ecs.request import Place

        shared = EcsShared.of(context.shared)
        secret = shared.secret_access_key
        connection = Connection(
            region=self.region,
            clock=context.clock,
            url=shared.api_url,
            credentials=Credentials(shared.access_key_id or "", secret.get_secret_value() if secret else ""),
            transport=context.http,
        )
        api = EcsApi(connection, self.cluster, context.clock)
        place = Place(
            deployment=self.deployment,
            cluster=self.cluster,
            subnets=self.subnets,
            security_groups=self.security_groups,
            assign_public_ip=self.assign_public_ip,
            task_definitions=self.task_definitions,
            container=self.container,
            spot=self.capacity == "spot",
            platform_version=self.platform_version,
            log_group=self.log_group,
            propagate_tags=self.propagate_tags,
        )
        return EcsProvider(api, place, context.clock)
