"""An agent's service account: the identity of its VMs or executions, and what that may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from stacks.gcp import names
from stacks.gcp.registry import Registry


@dataclass(frozen=True)
class Identity:
    account: gcp.serviceaccount.Account
    granted: Sequence[pulumi.Resource]
    """What must be there before a machine starts as it."""


def identity(
    name: str,
    prefix: str,
    project: str,
    region: str,
    part: str,
    registry: Registry | None,
    words: str,
    opts: pulumi.ResourceOptions,
) -> Identity:
    """Describe an agent's account. The bot's own process may do none of what it may.

    Args:
        name: Logical name of the agent's resources.
        part: Last part of the account's id.
        registry: Registry that its image is pulled from; None if it is another's.
        words: What it is the account of.
    """
    account = gcp.serviceaccount.Account(
        f"{name}-account",
        project=project,
        account_id=names.account(prefix, part),
        display_name=f"Switchboard {prefix}: {words}",
        opts=opts,
    )
    granted: list[pulumi.Resource] = [
        gcp.projects.IAMMember(
            f"{name}-writes-logs",
            project=project,
            # A role on a project alone: there is none for a single log.
            role="roles/logging.logWriter",
            member=account.member,
            opts=opts,
        )
    ]
    if registry is not None:
        granted.append(
            gcp.artifactregistry.RepositoryIamMember(
                f"{name}-pulls-images",
                project=project,
                location=region,
                repository=registry.images.name,
                role="roles/artifactregistry.reader",
                member=account.member,
                opts=opts,
            )
        )
    return Identity(account, granted)
