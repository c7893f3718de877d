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


def placement(**given: Any) -> Any:
    """The network, the registry and the tasks of one placement."""
    from stacks.aws.registry import Registry, RegistryArgs
    from stacks.aws.tasks import AgentTask, BotTasks, BotTasksArgs

    found = network()
    prefix = given.get("prefix", "switchboard-prod")
    registry = Registry("registry", RegistryArgs(prefix, ["bot-bots"], cache=True, tags=TAGS))
    repository = registry.repositories["bot-bots"]
    image = pulumi.Output.concat(repository.repository_url, f"@sha256:{'1' * 64}")
    agents = {
        "echo": AgentTask(image, 1024, 2048, {"ECHO_KEY": "hunter2-of-echo"}, repository.arn),
        "theirs": AgentTask(f"registry.example.com/b@sha256:{'2' * 64}", 256, 512, {}, None),
    }
    made = BotTasks(
        "bots",
        BotTasksArgs(
            prefix=prefix,
            region="us-east-1",
            agents=agents,
            architecture="X86_64",
            log_days=30,
            secret_store=given.get("secret_store", "secretsmanager"),
            tags=TAGS,
        ),
    )
    return {
        **found,
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
