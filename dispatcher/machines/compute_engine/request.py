"""Compute Engine's request for a machine, complete."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bot.protocol import BOT_FILE_VARIABLE, without_secrets
from dispatcher.machines.deadline import KILL_AFTER_SECONDS, command
from dispatcher.machines.provider import MACHINE_VARIABLE, MachineSpec, Rejected, thread_variables

DEPLOYMENT_LABEL, MACHINE_LABEL = "switchboard-deployment", "switchboard-machine"
COMMAND_KEY, VARIABLES_KEY = "switchboard-command", "switchboard-variables"
"""Keys of an instance's metadata: the container's command, a JSON list of texts; and its variables, a JSON
object of texts."""

EXIT_CODE = ("switchboard", "exit-code")
"""Namespace and key of the guest attribute in which a VM leaves the exit code of its bot."""

REQUESTS = uuid.UUID("6f0c7d0e-58d4-4b0c-9d0b-5a1d4a1f3c52")
"""Namespace of `requestId`s (RFC 9562, version 5)."""

LEAST_RUN_SECONDS, MOST_RUN_SECONDS = 30, 120 * 86400
"""Limits of `maxRunDuration`: "Limit the run time of a VM" in Compute Engine's documentation."""

METADATA_BYTES = 256 * 1024
"""Limit on one value of metadata."""

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Place:
    """Facts that all machines of a placement share."""

    deployment: str
    project: str
    zones: tuple[str, ...]
    templates: Mapping[str, str]
    draining_zones: tuple[str, ...] = ()
    """Zones that get no new machines. Existing ones are found, listed and stopped."""
    spot: bool = False
    late: timedelta = timedelta(seconds=30)
    """Time from its session's deadline until a machine ends itself."""

    @property
    def every_zone(self) -> tuple[str, ...]:
        return (*self.zones, *self.draining_zones)

    def name(self, machine_id: str) -> str:
        """Return the VM's name, which is unique in a zone."""
        return f"{self.deployment}-{machine_id}"

    def request_id(self, machine_id: str, zone: str) -> str:
        """Return the `requestId` of a machine's creation in a zone: a repeated insert is given the first
        one's operation."""
        return str(uuid.uuid5(REQUESTS, f"{self.project}/{zone}/{self.name(machine_id)}"))

    def template(self, agent: str) -> str:
        """Return the path of an agent's template.

        Raises:
            Rejected: It has none.
        """
        if (given := self.templates.get(agent)) is None:
            raise Rejected(f"templates has none for agent '{agent}'; it has: {', '.join(self.templates)}")
        path = given if "/" in given else f"global/instanceTemplates/{given}"
        return path if path.startswith("projects/") else f"projects/{self.project}/{path}"


def labels(place: Place, machine_id: str) -> dict[str, str]:
    """Return the labels that identify a machine."""
    return {DEPLOYMENT_LABEL: place.deployment, MACHINE_LABEL: machine_id}


def instance(place: Place, spec: MachineSpec, template_items: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """Return the JSON body of an insert, which is merged over the template (RFC 7396).

    It holds nothing that is secret for longer than the machine lives: everybody who may see the instance
    reads its metadata.

    Args:
        template_items: The metadata of the template. A list replaces the template's, so it is repeated.

    Raises:
        Rejected: The API allows no such name, or no value so large.
    """
    if not NAME.fullmatch(place.name(spec.id)):
        raise Rejected(
            f"'{place.name(spec.id)}' cannot be the name of a VM; allowed: 63 lower-case letters, digits and "
            "hyphens, with a letter first"
        )
    seconds = math.ceil((spec.max_duration + place.late).total_seconds())
    own = {
        COMMAND_KEY: json.dumps([*command(seconds), *without_secrets(spec.arguments)]),
        VARIABLES_KEY: json.dumps(
            {
                "HOME": "/tmp",  # noqa: S108 - its own
                **thread_variables(spec.cpu),
                BOT_FILE_VARIABLE: spec.bot_file,
                MACHINE_VARIABLE: spec.id,
                # Without the agent's own variables: the template's VM reads them from Secret Manager.
                **spec.environment,
            }
        ),
    }
    for key, value in own.items():
        if (size := len(value.encode())) > METADATA_BYTES:
            raise Rejected(
                f"the machine's {key} has {size} bytes, and Compute Engine allows {METADATA_BYTES}: make the "
                "agent's `arguments` shorter, or put them into its image"
            )
    items = [dict(item) for item in template_items if item.get("key") not in own]
    return {
        "name": place.name(spec.id),
        "labels": labels(place, spec.id),
        "metadata": {"items": items + [{"key": key, "value": value} for key, value in own.items()]},
        "scheduling": _scheduling(place, seconds),
    }


def _scheduling(place: Place, seconds: int) -> dict[str, Any]:
    """Return the schedule of a VM that deletes itself at its deadline, whoever is down.

    `timeout` in the VM ends the bot first; that leaves its exit code and log.
    """
    most = min(max(seconds + KILL_AFTER_SECONDS, LEAST_RUN_SECONDS), MOST_RUN_SECONDS)
    made: dict[str, Any] = {
        "provisioningModel": "SPOT" if place.spot else "STANDARD",
        "maxRunDuration": {"seconds": str(most)},
        "instanceTerminationAction": "DELETE",
        # A VM that started again would join the call a second time.
        "automaticRestart": False,
    }
    if place.spot:
        made["onHostMaintenance"] = "TERMINATE"
    return made
