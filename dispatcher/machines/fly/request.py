"""Fly's request for a machine, down to the last member."""

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
"""Fly's way to end a machine of its own accord, as when its host is drained; by default SIGINT and 5 seconds.
A bot says goodbye and reports within them."""


@dataclass(frozen=True, slots=True)
class Place:
    """The common part of all machines of a placement."""

    deployment: str
    apps: tuple[str, ...]
    region: str
    cpu_kind: CpuKind
    late: timedelta
    draining_apps: tuple[str, ...] = ()
    """Apps that get no new machines. Those that are there are found, listed and stopped."""

    @property
    def every_app(self) -> tuple[str, ...]:
        return (*self.apps, *self.draining_apps)

    def name(self, machine_id: str) -> str:
        """The machine's name, which Fly gives once in an app."""
        return f"{self.deployment}-{machine_id}"

    def app(self, machine_id: str) -> str:
        """The app that a machine is created in. With another app in the list, only machines that are to be
        there move to it. One that was created by another list is in another app: `Finder` looks in all."""
        return max(self.apps, key=lambda app: hashlib.sha256(f"{app} {machine_id}".encode()).digest())


def body(place: Place, spec: MachineSpec) -> dict[str, Any]:
    """The JSON body of a create.

    It holds nothing that is secret for longer than the machine lives: who may look at the app sees all of it.

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
        # Nobody is billed for what is left of it, and nobody has to tidy up.
        "auto_destroy": True,
        "restart": {"policy": "no"},
        "init": {"entrypoint": command(seconds), "cmd": list(without_secrets(spec.arguments))},
        "guest": asdict(size),
        "env": {
            "HOME": "/tmp",  # noqa: S108 - its own
            **thread_variables(size.cpus),
            BOT_FILE_VARIABLE: spec.bot_file,
            MACHINE_VARIABLE: spec.id,
            # Not the agent's own: they are secrets of the app, and Fly adds them.
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
    """Return what tells the deployment's machines from others, and one of them from the rest."""
    own = {} if machine_id is None else {MACHINE_KEY: machine_id}
    return {DEPLOYMENT_KEY: place.deployment, **own}


def filters(wanted: Mapping[str, str], extra: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Query parameters of a list of machines with this metadata."""
    return [(f"metadata.{key}", value) for key, value in wanted.items()] + list(extra)
