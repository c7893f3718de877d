"""Secret variables in Secret Manager: one for each agent, and one for each of the dispatcher's.

A version costs $0.06 a month in each location, and 10,000 reads $0.03. Replicas are in the placement's region
alone, so that values do not leave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp


@dataclass(frozen=True)
class SecretArgs:
    project: str
    region: str
    called: str
    """Id of the secret."""
    value: pulumi.Input[str]
    reader: pulumi.Input[str]
    """Member that may read it, such as serviceAccount:…"""
    labels: Mapping[str, str]


class Secret(pulumi.ComponentResource):
    """A secret with one version, and its one reader."""

    version: pulumi.Output[str]
    """Name of the version: `projects/P/secrets/ID/versions/N`."""
    secret_id: pulumi.Output[str]
    number: pulumi.Output[str]
    written: list[pulumi.Resource]
    """What must be there before it is read."""

    def __init__(self, name: str, args: SecretArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:Secret", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        secret = gcp.secretmanager.Secret(
            name,
            project=args.project,
            secret_id=args.called,
            replication=gcp.secretmanager.SecretReplicationArgs(
                user_managed=gcp.secretmanager.SecretReplicationUserManagedArgs(
                    replicas=[gcp.secretmanager.SecretReplicationUserManagedReplicaArgs(location=args.region)]
                )
            ),
            labels=args.labels,
            opts=within,
        )
        version = gcp.secretmanager.SecretVersion(
            f"{name}-value", secret=secret.id, secret_data=pulumi.Output.secret(args.value), opts=within
        )
        reader = gcp.secretmanager.SecretIamMember(
            f"{name}-reader",
            project=args.project,
            secret_id=secret.secret_id,
            role="roles/secretmanager.secretAccessor",
            member=args.reader,
            opts=within,
        )
        self.version, self.secret_id, self.number = version.name, secret.secret_id, version.version
        self.written = [version, reader]
        self.register_outputs({})
