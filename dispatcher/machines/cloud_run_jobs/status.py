"""The status of an execution: what it is, whose, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from dispatcher.domain.model import MachineState
from dispatcher.machines.cloud_run_jobs.request import DEPLOYMENT_VARIABLE, Place
from dispatcher.machines.provider import MACHINE_VARIABLE, NoCapacity, ProviderError, Rejected

Execution = Mapping[str, Any]
"""An execution as Cloud Run shows it."""

COUNTS = ("runningCount", "succeededCount", "failedCount", "cancelledCount")
NEVER_STARTS = frozenset(
    {
        "CONTAINER_MISSING",
        "CONTAINER_PERMISSION_DENIED",
        "CONTAINER_IMAGE_UNAUTHORIZED",
        "CONTAINER_IMAGE_AUTHORIZATION_CHECK_FAILED",
        "ENCRYPTION_KEY_PERMISSION_DENIED",
        "ENCRYPTION_KEY_CHECK_FAILED",
        "SECRETS_ACCESS_CHECK_FAILED",
        "VPC_NETWORK_NOT_FOUND",
    }
)
"""Reasons of a condition that the job itself causes, so that another execution fails as well."""
MOST_WORDS = 1000


def state_of(execution: Execution) -> MachineState:
    if execution.get("completionTime") or execution.get("deleteTime"):
        return MachineState.gone
    has_begun = any(execution.get(name) for name in COUNTS)
    return MachineState.started if has_begun else MachineState.requested


def machine_id_of(execution: Execution, place: Place) -> str:
    """Return the id of this deployment's machine; empty for any other execution."""
    variables = _variables(execution)
    return (
        variables.get(MACHINE_VARIABLE, "") if variables.get(DEPLOYMENT_VARIABLE) == place.deployment else ""
    )


def first(executions: Iterable[Execution]) -> Execution | None:
    """Return the execution that a machine is: the first that was created and is not gone, else the last.

    Every dispatcher chooses the same one.
    """
    every = sorted(executions, key=lambda one: (_created(one), one.get("name", "")))
    living = [one for one in every if state_of(one) is not MachineState.gone]
    return living[0] if living else every[-1] if every else None


def not_started(execution: Execution) -> ProviderError | None:
    """Return the error of an execution that ended before its container ran; None for any other."""
    if state_of(execution) is not MachineState.gone or execution.get("startTime"):
        return None
    failed = [one for one in execution.get("conditions") or () if one.get("state") == "CONDITION_FAILED"]
    if not failed or execution.get("cancelledCount"):
        return None
    reasons = {one.get("reason") for one in failed}
    about = f"Cloud Run could not start the execution: {words_of(execution)}"
    if reasons & NEVER_STARTS:
        return Rejected(f"{about} (mend the job: bring the stack up again)")
    return NoCapacity(about)


def words_of(execution: Execution) -> str:
    """Return what Cloud Run says of an execution that failed."""
    said = [
        f"{one.get('reason') or one.get('executionReason') or one.get('type')}: {one.get('message', '')}"
        for one in execution.get("conditions") or ()
        if one.get("state") == "CONDITION_FAILED"
    ]
    return "; ".join(dict.fromkeys(said))[:MOST_WORDS]


def exit_code_of(execution: Execution, tasks: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the exit code of an ended execution's bot; 128 + n for signal n."""
    if execution.get("succeededCount"):
        return 0
    for task in tasks:
        result = task.get("lastAttemptResult") or {}
        if signal := result.get("termSignal"):
            return 128 + signal
        if "exitCode" in result:
            return result["exitCode"]
    return None


def _variables(execution: Execution) -> Mapping[str, str]:
    containers = (execution.get("template") or {}).get("containers") or ()
    return {
        one.get("name", ""): one.get("value", "")
        for container in containers
        for one in container.get("env") or ()
    }


def _created(execution: Execution) -> float:
    try:
        return datetime.fromisoformat(execution.get("createTime", "")).timestamp()
    except ValueError:
        return 0.0
