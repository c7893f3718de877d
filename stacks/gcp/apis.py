"""APIs of a project that a stack's resources need to be enabled."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_gcp as gcp

OF_BOTS = (
    "artifactregistry.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
)
"""APIs of a placement."""

OF_DISPATCHER = (
    "artifactregistry.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "sqladmin.googleapis.com",
)
"""APIs of a host."""


class Apis(pulumi.ComponentResource):
    """The APIs, enabled. They stay enabled when the stack goes: others of the project may use them."""

    enabled: list[pulumi.Resource]

    def __init__(
        self, name: str, project: str, apis: Sequence[str], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("switchboard:gcp:Apis", name, None, opts)
        self.enabled = [
            gcp.projects.Service(
                f"{name}-{api.partition('.')[0]}",
                project=project,
                service=api,
                disable_on_destroy=False,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for api in sorted(set(apis))
        ]
        self.register_outputs({})
