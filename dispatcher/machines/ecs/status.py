"""The status of a task: what it is, how it ended, and what its start was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from dispatcher.domain.model import MachineState, MachineStatus

if TYPE_CHECKING:
    from types_aiobotocore_ecs.type_defs import ContainerTypeDef, TaskTypeDef

RUNNING = frozenset({"RUNNING", "DEACTIVATING", "STOPPING"})
"""A task that stops runs until its containers have ended, which takes up to two minutes."""
OVER = frozenset({"DEPROVISIONING", "STOPPED", "DELETED"})
"""Its containers have ended; what is left is its network interface."""

NEVER_RAN = "TaskFailedToStart"
OUT_OF_MEMORY = "OutOfMemory"
MOST_WORDS = 1000
"""Characters of a reason that are passed on."""

STAGES = (
    ("place", "createdAt", "pullStartedAt"),
    ("pull", "pullStartedAt", "pullStoppedAt"),
    ("boot", "pullStoppedAt", "startedAt"),
)
"""Stage of a start → the task's stamps at which it begins and ends: a place and a network interface are
found, the image is pulled, the container starts."""


def state_of(task: TaskTypeDef) -> MachineState:
    last = task.get("lastStatus", "")
    if last in OVER:
        return MachineState.gone
    # An unknown status counts as not started, so the caller asks again.
    return MachineState.started if last in RUNNING else MachineState.requested


def status_of(machine_id: str, task: TaskTypeDef, container: str) -> MachineStatus:
    state = state_of(task)
    if state is not MachineState.gone:
        return MachineStatus(machine_id, state, startup=startup_of(task))
    bot = container_of(task, container)
    memory = None
    if OUT_OF_MEMORY in bot.get("reason", ""):
        memory = int(task.get("memory") or 0) or None
    return MachineStatus(machine_id, state, bot.get("exitCode"), output=_words(task), out_of_memory_mb=memory)


def container_of(task: TaskTypeDef, name: str) -> ContainerTypeDef:
    return next((one for one in task.get("containers", ()) if one.get("name") == name), {})


def could_not_start(task: TaskTypeDef) -> bool:
    """Return True if it is over and its containers were never started, for a reason of ECS's."""
    never_ran = task.get("startedAt") is None and task.get("stopCode") == NEVER_RAN
    return never_ran and state_of(task) is MachineState.gone


def reason_of(task: TaskTypeDef, container: str = "") -> str:
    """Return why the task was stopped, as ECS says it."""
    words = [task.get("stoppedReason", ""), container_of(task, container).get("reason", "")]
    said = "; ".join(dict.fromkeys(one for one in words if one))
    return said[:MOST_WORDS] or task.get("stopCode", "") or "ECS says no reason"


def startup_of(task: TaskTypeDef) -> Mapping[str, float]:
    """Return stage → seconds of a task's start, of the stages that are over."""
    stamps: dict[str, datetime] = {
        name: value
        for name in ("createdAt", "pullStartedAt", "pullStoppedAt", "startedAt")
        if isinstance(value := task.get(name), datetime)
    }
    return {
        stage: max(0.0, (stamps[until] - stamps[since]).total_seconds())
        for stage, since, until in STAGES
        if since in stamps and until in stamps
    }


def latest(tasks: Iterable[TaskTypeDef]) -> TaskTypeDef | None:
    """Return the task that a machine is: one that lives, if any does, else the one that was created last."""
    found = list(tasks)
    living = [task for task in found if state_of(task) is not MachineState.gone]
    return max(living or found, key=_created, default=None)


def subnet_of(task: TaskTypeDef) -> str:
    """Return the subnet that Fargate chose; empty if the task does not tell."""
    details = (
        detail for attachment in task.get("attachments", ()) for detail in attachment.get("details", ())
    )
    return next((one.get("value", "") for one in details if one.get("name") == "subnetId"), "")


def _created(task: TaskTypeDef) -> float:
    created = task.get("createdAt")
    return created.timestamp() if isinstance(created, datetime) else 0.0


def _words(task: TaskTypeDef) -> str:
    """Return what people need to know of an end that is not the bot's own."""
    code, reason = task.get("stopCode", ""), reason_of(task)
    if code == NEVER_RAN:
        return f"ECS never started the task: {reason}\n"
    if code == "SpotInterruption":
        return f"AWS took the Spot capacity back: {reason}\n"
    return (
        f"ECS stopped the task: {reason}\n" if code in ("TerminationNotice", "InfrastructureHealth") else ""
    )
