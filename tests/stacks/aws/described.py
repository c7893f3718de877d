"""Programs for tests, each a function that a process of its own runs under Pulumi's mocks."""

from __future__ import annotations

from typing import Any

import pulumi

TAGS = {"project": "switchboard", "stack": "prod"}


def network(**given: Any) -> Any:
    from stacks.aws.network import Network, NetworkArgs

    args: dict[str, Any] = {
        "region": "us-east-1",
        "zones": ["us-east-1a", "us-east-1b"],
        "cidr": "10.64.0.0/16",
        "vpc_id": "",
        "subnet_ids": [],
        "udp_ports": None,
        "interface_endpoints": False,
        "tags": TAGS,
    }
    made = Network("network", NetworkArgs(**{**args, **given}))
    return {"vpc": made.vpc_id, "subnets": made.subnet_ids, "bots": made.bots.id}


def placement(secret_store: Any = "secretsmanager", **network_arguments: Any) -> Any:
    """The network, the registry and the tasks of one placement."""
    from stacks.aws.registry import Registry, RegistryArgs

    found = network(**network_arguments)
    registry = Registry("registry", RegistryArgs("switchboard-prod", ["bot-bots"], cache=True, tags=TAGS))
    return {**found, **_tasks("bots", "switchboard-prod", registry.repositories["bot-bots"], secret_store)}


def placements() -> Any:
    """Two placements that have, between them, all resources that there are."""
    from stacks.aws.registry import Registry, RegistryArgs

    found = network(udp_ports=(32768, 60999), interface_endpoints=True)
    registry = Registry("registry", RegistryArgs("switchboard-prod", ["bot-bots"], cache=True, tags=TAGS))
    repository = registry.repositories["bot-bots"]
    stores = {"bots": "secretsmanager", "more": "ssm"}
    tasks = {name: _tasks(name, f"switchboard-{name}", repository, store) for name, store in stores.items()}
    return {**found, "tasks": tasks}


def _tasks(name: str, prefix: str, repository: Any, secret_store: Any) -> dict[str, Any]:
    from stacks.aws.events import TaskEvents, TaskEventsArgs
    from stacks.aws.tasks import AgentTask, BotTasks, BotTasksArgs

    image = pulumi.Output.concat(repository.repository_url, f"@sha256:{'1' * 64}")
    agents = {
        "echo": AgentTask(image, 1024, 2048, {"ECHO_KEY": "hunter2-of-echo"}, repository.arn),
        "theirs": AgentTask(f"registry.example.com/b@sha256:{'2' * 64}", 256, 512, {}, None),
    }
    made = BotTasks(
        name,
        BotTasksArgs(
            prefix=prefix,
            region="us-east-1",
            agents=agents,
            architecture="X86_64",
            log_days=30,
            secret_store=secret_store,
            tags=TAGS,
        ),
    )
    TaskEvents(
        f"{name}-events",
        TaskEventsArgs(
            prefix=prefix,
            cluster=made.cluster.arn,
            url="https://voice.example.com",
            key="hunter2-of-events",
            tags=TAGS,
        ),
    )
    return {
        "cluster": made.cluster.name,
        "definitions": made.revisions(),
        "logGroup": made.log_group.name,
        "statements": [one.written() for one in made.statements],
    }


def starts_bots(account: str, prefix: str) -> Any:
    """The dispatcher's statements in a placement, with ARNs as ECS and IAM give them."""
    from stacks.aws import permissions

    made = permissions.starts_bots(
        "us-east-1",
        prefix,
        f"{account}:cluster/{prefix}",
        [f"{account}:task-definition/{prefix}-{agent}" for agent in ("echo", "voice")],
        [f"arn:aws:iam::{account.rpartition(':')[2]}:role/{prefix}-{role}" for role in ("execution", "task")],
    )
    return [one.written() for one in made]


def host(
    domain: str = "", zone_id: str = "", throwaway: bool = False, database: bool = True, email: str = ""
) -> Any:
    """The dispatcher's service with its front and its database."""
    import pulumi_aws as aws

    from stacks.aws.alarms import Alarms, AlarmsArgs
    from stacks.aws.database import Database, DatabaseArgs
    from stacks.aws.dispatcher import Dispatcher, DispatcherArgs
    from stacks.aws.front import Front, FrontArgs
    from stacks.aws.registry import Registry, RegistryArgs

    found = network()
    registry = Registry("registry", RegistryArgs("switchboard-prod", ["dispatcher"], cache=False, tags=TAGS))
    repository = registry.repositories["dispatcher"]
    made = Front(
        "front",
        FrontArgs(
            prefix="switchboard-prod",
            vpc_id=found["vpc"],
            subnet_ids=found["subnets"],
            domain=domain,
            zone_id=zone_id,
            certificate_arn="",
            tags=TAGS,
        ),
    )
    group = aws.ec2.SecurityGroup("dispatcher-group", description="d", vpc_id=found["vpc"], tags=TAGS)
    variables: dict[str, Any] = {"SWITCHBOARD_SECRETS": "hunter2-of-signing"}
    if database:
        variables["SWITCHBOARD_DATABASE_URL"] = Database(
            "database",
            DatabaseArgs(
                prefix="switchboard-prod",
                vpc_id=found["vpc"],
                subnet_ids=found["subnets"],
                clients=group.id,
                instance="db.t4g.micro",
                multi_zone=False,
                backup_days=7,
                password="hunter2-of-postgres",
                throwaway=throwaway,
                tags=TAGS,
            ),
        ).url
    service = Dispatcher(
        "dispatcher",
        DispatcherArgs(
            prefix="switchboard-prod",
            region="us-east-1",
            vpc_id=found["vpc"],
            subnet_ids=found["subnets"],
            group=group,
            front=made.group.id,
            targets=made.targets.arn,
            number=2,
            cpu_units=512,
            memory_mb=1024,
            architecture="X86_64",
            image=pulumi.Output.concat(repository.repository_url, f"@sha256:{'3' * 64}"),
            repository=repository.arn,
            environment={"SWITCHBOARD_PORT": "7860"},
            variables=variables,
            statements=[],
            log_days=30,
            secret_store="secretsmanager",
            needed=made.listening,
            tags=TAGS,
        ),
    )
    Alarms(
        "alarms",
        AlarmsArgs(
            prefix="switchboard-prod",
            region="us-east-1",
            balancer=made.balancer.arn_suffix,
            targets=made.targets.arn_suffix,
            cluster=service.cluster.name,
            service=service.service.name,
            database="store" if database else None,
            log_group=service.log_group.name,
            log_format="text",
            email=email,
            budget_usd=100 if email else 0,
            tags=TAGS,
        ),
    )
    return {**found, "url": made.url, "records": made.records, "service": service.service.name}


def stack(config: dict[str, str], checkout: str, environment: dict[str, str]) -> Any:
    """The program of a stack with this config, run in this environment; returns the stack's outputs."""
    import os
    from pathlib import Path

    from pulumi.runtime import set_all_config
    from pulumi.runtime.settings import get_root_resource
    from pulumi.runtime.stack import Stack

    from stacks import assembly

    os.environ.clear()
    os.environ.update(environment)
    set_all_config(config, [name for name in config if name == "switchboard:databaseUrl"])
    assembly.describe(Path(checkout))
    root = get_root_resource()
    assert isinstance(root, Stack)
    return dict(root.outputs)
