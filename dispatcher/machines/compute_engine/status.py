"""The status of a VM: what it is, and whose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.domain.model import MachineState
from dispatcher.machines.compute_engine.request import DEPLOYMENT_LABEL, MACHINE_LABEL, Place

Instance = Mapping[str, Any]
"""A VM as Compute Engine shows it."""

RUNNING = frozenset({"RUNNING", "PENDING_STOP", "STOPPING", "SUSPENDING", "REPAIRING"})
"""A VM that stops runs until its bot has ended. One in repair comes back, or ends as `TERMINATED`."""
OVER = frozenset({"STOPPED", "TERMINATED", "DEPROVISIONING"})
"""Switchboard never starts a stopped VM again."""
LEFT = frozenset({"STOPPED", "TERMINATED"})
"""Statuses of an ended VM that still exists: its disk costs until it is deleted."""


def state_of(instance: Instance) -> MachineState:
    status = instance.get("status", "")
    if status in OVER:
        return MachineState.gone
    # `SUSPENDED` serves no session until it is resumed. An unknown status: the caller asks again.
    return MachineState.started if status in RUNNING else MachineState.requested


def is_machine(instance: Instance, place: Place, machine_id: str) -> bool:
    """Return True if this is the machine of this deployment: name and labels must agree."""
    return bool(machine_id) and (
        instance.get("name") == place.name(machine_id)
        and _label(instance, MACHINE_LABEL) == machine_id
        and _label(instance, DEPLOYMENT_LABEL) == place.deployment
    )


def machine_id_of(instance: Instance, place: Place) -> str:
    """Return the id of this deployment's machine; empty for any other VM."""
    machine_id = _label(instance, MACHINE_LABEL)
    return machine_id if is_machine(instance, place, machine_id) else ""


def _label(instance: Instance, key: str) -> str:
    return (instance.get("labels") or {}).get(key, "")
