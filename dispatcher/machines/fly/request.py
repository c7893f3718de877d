"""Fly's request for a machine, complete."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from bot.protocol import BOT_FILE_VARIABLE, without_secrets
from dispatcher.machines.deadline import command
from dispatcher.machines.fly.sizes import CpuKind, guest
from dispatcher.machines.provider import MACHINE_VARIABLE, MachineSpec, Rejected, thread_variables

DEPLOYMENT_KEY, MACHINE_KEY = "switchboard_deployment", "switchboard_machine"
"""Keys of a machine's metadata, by which Fly filters lists."""

STOP_SIGNAL, STOP_SECONDS = "SIGTERM", 15
"""Signal and grace with which Fly stops a machine on its own, as when it drains a host; Fly's default is
SIGINT and 5 s. A bot says goodbye and reports within them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Facts that all machines of a placement share."""

    deployment: str
    apps: tuple[str, ...]
    region: str
    cpu_kind: CpuKind
    late: timedelta
    draining_apps: tuple[str, ...] = ()
    """Apps that get no new machines. Existing ones are found, listed and stopped."""

    @property
    def every_app(self) -> tuple[str, ...]:
        return (*self.apps, *self.draining_apps)

    def name(self, machine_id: str) -> str:
        """Return the machine's name, which is unique in an app."""
        return f"{self.deployment}-{machine_id}"

    def app(self, machine_id: str) -> str:
        """Return the app in which a machine is created.

        When an app is added to the list, only the machines that move to it change their app. A machine
        created with another list may be in another app: `Finder` searches all.
        """
        return max(self.apps, key=lambda app: hashlib.sha256(f"{app} {machine_id}".encode()).digest())


def body(place: Place, spec: MachineSpec) -> dict[str, Any]:
    """Return the JSON body of a create.

    It contains no secret that outlives the machine: everybody with access to the app can read it.

    Raises:
        Rejected: Fly has no machine of this size.
    """
    try:
        size = guest(place.cpu_kind, spec.cpu, spec.memory_mb)
    except ValueError as error:
        raise Rejected(str(error)) from error
    seconds = math.ceil((spec.max_duration + place.late).total_seconds())
    config = {
        "image": spec.image,
        # A destroyed machine costs nothing and needs no clean-up.
        "auto_destroy": True,
        "restart": {"policy": "no"},
        "init": {"entrypoint": command(seconds), "cmd": list(without_secrets(spec.arguments))},
        "guest": asdict(size),
        "env": {
            "HOME": "/tmp",  # noqa: S108 - its own
            **thread_variables(size.cpus),
            BOT_FILE_VARIABLE: spec.bot_file,
            MACHINE_VARIABLE: spec.id,
            # Without the agent's own variables: Fly adds them from the app's secrets.
            **spec.environment,
        },
        "metadata": metadata(place, spec.id),
        "stop_config": {"signal": STOP_SIGNAL, "timeout": f"{STOP_SECONDS}s"},
    }
    made: dict[str, Any] = {"name": place.name(spec.id), "config": config}
    if place.region:
        made["region"] = place.region
    return made


def metadata(place: Place, machine_id: str | None = None) -> dict[str, str]:
    """Return the metadata that identifies the deployment's machines, and each of them."""
    own = {} if machine_id is None else {MACHINE_KEY: machine_id}
    return {DEPLOYMENT_KEY: place.deployment, **own}


def filters(wanted: Mapping[str, str], extra: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Return the query parameters of a list of machines with this metadata."""
    return [(f"metadata.{key}", value) for key, value in wanted.items()] + list(extra)
