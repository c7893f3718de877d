"""Roles, and their bindings to the dispatcher's account.

They are apart from `permissions`, which every stack imports: only stacks at Google Cloud have pulumi-gcp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_gcp as gcp

from stacks.gcp import names
from stacks.gcp.permissions import Grant


def custom_role(
    name: str,
    prefix: str,
    project: str,
    part: str,
    allowed: Sequence[str],
    title: str,
    opts: pulumi.ResourceOptions,
) -> gcp.projects.IAMCustomRole:
    """Describe a role with these permissions alone.

    Args:
        title: What it is for: `make and end bots`.
    """
    return gcp.projects.IAMCustomRole(
        f"{name}-{part}-role",
        project=project,
        role_id=names.role(prefix, part),
        title=f"Switchboard {prefix}: {title}",
        permissions=list(allowed),
        opts=opts,
    )


def grant(
    name: str, member: pulumi.Input[str], written: Mapping[str, Any], opts: pulumi.ResourceOptions
) -> pulumi.Resource:
    """Describe the binding of a grant to a member."""
    one = Grant(**written)
    logical = f"{name}-{one.part}"
    if one.on == "subnetwork":
        return gcp.compute.SubnetworkIAMMember(
            logical,
            project=one.project,
            region=one.region,
            subnetwork=one.resource,
            role=one.role,
            member=member,
            opts=opts,
        )
    if one.on == "account":
        return gcp.serviceaccount.IAMMember(
            logical, service_account_id=one.resource, role=one.role, member=member, opts=opts
        )
    if one.on == "job":
        return gcp.cloudrunv2.JobIamMember(
            logical,
            project=one.project,
            location=one.region,
            name=one.resource,
            role=one.role,
            member=member,
            opts=opts,
        )
    condition = (
        gcp.projects.IAMMemberConditionArgs(title=one.part, expression=one.condition)
        if one.condition
        else None
    )
    return gcp.projects.IAMMember(
        logical, project=one.resource, role=one.role, member=member, condition=condition, opts=opts
    )
