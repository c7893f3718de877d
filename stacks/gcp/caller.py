"""A dispatcher outside Google Cloud: a service account with a key for it, and its roles."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_gcp as gcp

from stacks.gcp import bindings, names


@dataclass(frozen=True)
class Caller:
    """A dispatcher outside Google Cloud, as it is known there."""

    key: pulumi.Output[str]
    """The account's key, as JSON."""
    granted: Sequence[pulumi.Resource]


def caller(
    name: str,
    prefix: str,
    project: str,
    grants: Sequence[Mapping[str, Any]],
    opts: pulumi.ResourceOptions,
) -> Caller:
    """Describe a service account with a key for a dispatcher elsewhere.

    The key never expires. Workload identity federation would do without one; it needs a pool that trusts the
    dispatcher's cloud, which this stack does not make.
    """
    account = gcp.serviceaccount.Account(
        f"{name}-account",
        project=project,
        account_id=names.account(prefix, "dispatcher"),
        display_name=f"Switchboard {prefix}: the dispatcher",
        opts=opts,
    )
    key = gcp.serviceaccount.Key(f"{name}-key", service_account_id=account.name, opts=opts)
    granted = [bindings.grant(name, account.member, one, opts) for one in grants]
    return Caller(
        pulumi.Output.secret(key.private_key.apply(lambda text: base64.b64decode(text).decode())),
        granted,
    )
