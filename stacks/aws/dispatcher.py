"""The dispatcher: an ECS service in a cluster of its own, with its roles, secrets and log.

Its tasks are not in the bots' cluster: a dispatcher may stop every task there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from stacks.aws import fargate, permissions
from stacks.aws.config import Architecture
from stacks.aws.front import PORT
from stacks.aws.network import ANYWHERE
from stacks.aws.secrets import ContainerSecrets, ContainerSecretsArgs, SecretStore

CONTAINER = "dispatcher"

STOP_SECONDS = 60
"""Between SIGTERM and SIGKILL; Fargate allows 120. A dispatcher drains for 20 s at the most, gives answers in
flight 10 s, and what it does itself 15 s."""

GRACE_SECONDS = 120
"""After a task's start, in which the load balancer's checks do not end it: migrations run then."""

# As images/dispatcher.Dockerfile has it: ECS does not read an image's own.
ALIVE = (
    "import http.client as h, sys; "
    f"c = h.HTTPConnection('127.0.0.1', {PORT}, timeout=4); c.request('GET', '/healthz'); "
    "sys.exit(c.getresponse().status != 200)"
)
PYTHON = "/opt/venv/bin/python"


@dataclass(frozen=True)
class DispatcherArgs:
    prefix: str
    region: str
    vpc_id: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    group: aws.ec2.SecurityGroup
    """The tasks' security group."""
    front: pulumi.Input[str]
    """Security group of the load balancer."""
    targets: pulumi.Input[str]
    """ARN of its target group."""
    number: int
    cpu_units: int
    memory_mb: int
    architecture: Architecture
    image: pulumi.Input[str]
    repository: pulumi.Input[str]
    """ARN of the image's repository."""
    environment: Mapping[str, pulumi.Input[str]]
    variables: Mapping[str, pulumi.Input[str]]
    """Secret variables."""
    statements: Sequence[Mapping[str, Any]]
    """Its permissions in the placements, as IAM has them."""
    log_days: int
    secret_store: SecretStore
    needed: Sequence[pulumi.Resource]
    """Resources that it starts after."""
    tags: Mapping[str, str]


class Dispatcher(pulumi.ComponentResource):
    """The service. A new revision starts beside the old one, and takes its place when it is healthy."""

    cluster: aws.ecs.Cluster
    service: aws.ecs.Service
    log_group: aws.cloudwatch.LogGroup

    def __init__(self, name: str, args: DispatcherArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:Dispatcher", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        self.cluster = fargate.cluster(
            f"{name}-cluster", f"{args.prefix}-dispatcher", args.tags, self._within
        )
        self.log_group = fargate.log_group(
            f"{name}-log", f"/{args.prefix}/dispatcher", args.log_days, args.tags, self._within
        )
        secrets = ContainerSecrets(
            f"{name}-secrets",
            ContainerSecretsArgs(
                prefix=f"/{args.prefix}/dispatcher",
                store=args.secret_store,
                values=args.variables,
                tags=args.tags,
            ),
            opts=self._within,
        )
        execution = self._role("execution", "ECS starts the dispatcher with it")
        task = self._role("task", "the dispatcher's own")
        granted = [
            self._policy(
                "execution",
                execution,
                permissions.starts_containers(
                    [args.repository], [self.log_group.arn], secrets.secrets, secrets.parameters
                ),
            )
        ]
        if args.statements:
            granted.append(self._policy("task", task, args.statements))
        definition = fargate.definition(
            f"{name}-task",
            family=f"{args.prefix}-dispatcher",
            cpu_units=args.cpu_units,
            memory_mb=args.memory_mb,
            architecture=args.architecture,
            execution=execution,
            task=task,
            container=self._container(secrets),
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*granted, *secrets.written]),
        )
        self._openings()
        self.service = aws.ecs.Service(
            f"{name}-service",
            name="dispatcher",
            cluster=self.cluster.arn,
            task_definition=definition.arn,
            desired_count=args.number,
            launch_type="FARGATE",
            platform_version="1.4.0",
            # A new one beside each old one: nobody is without a dispatcher, and bots' channels connect anew.
            deployment_minimum_healthy_percent=100,
            deployment_maximum_percent=200,
            deployment_circuit_breaker=aws.ecs.ServiceDeploymentCircuitBreakerArgs(
                enable=True, rollback=True
            ),
            availability_zone_rebalancing="ENABLED",
            health_check_grace_period_seconds=GRACE_SECONDS,
            enable_execute_command=False,
            # Old revisions of bots' definitions go at a run's end, when nobody starts from them any more.
            wait_for_steady_state=True,
            network_configuration=aws.ecs.ServiceNetworkConfigurationArgs(
                subnets=args.subnet_ids, security_groups=[args.group.id], assign_public_ip=True
            ),
            load_balancers=[
                aws.ecs.ServiceLoadBalancerArgs(
                    target_group_arn=args.targets, container_name=CONTAINER, container_port=PORT
                )
            ],
            propagate_tags="SERVICE",
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.needed)),
        )
        self.register_outputs({})

    def _openings(self) -> None:
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-from-front",
            security_group_id=self._args.group.id,
            description="The load balancer",
            ip_protocol="tcp",
            from_port=PORT,
            to_port=PORT,
            referenced_security_group_id=self._args.front,
            tags=self._args.tags,
            opts=self._within,
        )
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-out",
            security_group_id=self._args.group.id,
            description="To AWS, the database and media providers' APIs",
            ip_protocol="-1",
            cidr_ipv4=ANYWHERE,
            tags=self._args.tags,
            opts=self._within,
        )

    def _role(self, part: str, description: str) -> aws.iam.Role:
        prefix = self._args.prefix
        return fargate.role(
            f"{self._name}-{part}-role",
            f"{prefix}-dispatcher-{part}",
            f"Switchboard {prefix}: {description}",
            self._args.tags,
            self._within,
        )

    def _policy(
        self,
        part: str,
        role: aws.iam.Role,
        statements: Sequence[permissions.Statement | Mapping[str, Any]],
    ) -> aws.iam.RolePolicy:
        return aws.iam.RolePolicy(
            f"{self._name}-{part}-policy",
            role=role.id,
            policy=permissions.document(statements),
            opts=self._within,
        )

    def _container(self, secrets: ContainerSecrets) -> dict[str, Any]:
        environment = sorted(self._args.environment.items())
        return {
            **fargate.container(
                CONTAINER,
                image=self._args.image,
                stop_seconds=STOP_SECONDS,
                secrets=secrets.references,
                log_group=self.log_group,
                region=self._args.region,
            ),
            "portMappings": [{"containerPort": PORT, "protocol": "tcp"}],
            "environment": [{"name": name, "value": value} for name, value in environment],
            "healthCheck": {
                "command": ["CMD", PYTHON, "-P", "-c", ALIVE],
                "interval": 15,
                "timeout": 5,
                "retries": 2,
                "startPeriod": 60,
            },
        }
