"""Every permission that a dispatcher gets at Google Cloud, each with its reason.

Conditions limit what they can: VMs and disks by zone and name, templates by name. They cannot say that a VM
is made from one of these templates. A dispatcher that somebody has taken over may so start a VM of any public
image and machine type, with a name of ours, in these zones and this subnet, and with bots' accounts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pulumi

MACHINES = (
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.getGuestAttributes",
    "compute.instances.resume",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setServiceAccount",
    "compute.instances.setTags",
    "compute.instances.suspend",
)
"""A session's VM is made, asked about and deleted. Its disk has its name. One that waits for a session may be
suspended, and resumed for it."""

TEMPLATES = ("compute.instanceTemplates.get", "compute.instanceTemplates.useReadOnly")
"""A VM is made from its agent's template."""

LOOKS = ("compute.instances.list", "compute.zoneOperations.get")
"""The orphan scan compares sessions with the VMs that there are, and a VM's creation is followed. Google asks
for both at the project, where no condition on a name holds."""

SUBNET = ("compute.subnetworks.use",)
"""A VM is in this subnet."""

EXTERNAL = ("compute.subnetworks.useExternalIp",)
"""It has a public address there."""

ACT_AS = "roles/iam.serviceAccountUser"
"""A VM has its agent's service account; granted on these accounts alone."""


JOBS = (
    "run.executions.cancel",
    "run.executions.delete",
    "run.executions.get",
    "run.executions.list",
    "run.jobs.run",
    "run.jobs.runWithOverrides",
    "run.tasks.list",
)
"""A session's execution is run, asked about and cancelled, and deleted after its end; granted on the jobs
alone."""

EXECUTIONS = ("run.executions.cancel", "run.executions.get", "run.executions.list", "run.tasks.list")
"""An execution is absent only if none of the region's jobs has it: its own may have left the settings. Google
asks for that at the project."""


@dataclass(frozen=True)
class Grant:
    """A role for the dispatcher on one resource."""

    part: str
    """Tells the grants of a placement apart."""
    on: Literal["project", "subnetwork", "account", "job"]
    resource: pulumi.Input[str]
    """Id of the project, or name of the subnet, the account or the job."""
    role: pulumi.Input[str]
    project: str
    region: str
    condition: str = ""
    """Expression in CEL; empty: none."""

    def written(self) -> dict[str, Any]:
        """Return the grant as a statement of `PlacedBots.permissions`."""
        return {
            "part": self.part,
            "on": self.on,
            "resource": self.resource,
            "role": self.role,
            "project": self.project,
            "region": self.region,
            "condition": self.condition,
        }


def on_machines(zones: Sequence[str], deployment: str) -> str:
    """Return the condition for VMs and disks of a deployment in these zones."""
    listed = ", ".join(f'"{zone}"' for zone in zones)
    return (
        f'resource.name.extract("/zones/{{zone}}/") in [{listed}] && '
        f'(resource.name.extract("/instances/{{name}}").startsWith("{deployment}-m-") || '
        f'resource.name.extract("/disks/{{name}}").startsWith("{deployment}-m-"))'
    )


def on_templates(prefix: str) -> str:
    """Return the condition for templates whose names begin so."""
    return f'resource.name.extract("/instanceTemplates/{{name}}").startsWith("{prefix}-")'
