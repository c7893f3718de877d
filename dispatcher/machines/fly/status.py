"""The status of a machine at Fly: its state, and its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.fly.request import DEPLOYMENT_KEY, MACHINE_KEY, Place

RUNNING = frozenset({"started", "stopping", "suspending"})
SUSPENDED = frozenset({"suspended"})
"""State of a machine that exists and can be resumed. It serves no session meanwhile: it counts as
`requested`."""
OVER = frozenset({"stopped", "failed", "launch_failed", "destroying", "destroyed", "replaced", "migrated"})
"""States of an ended machine; Switchboard never starts a stopped machine again."""
NO_IMAGE = ("image", "manifest", "registry")
"""Words of events that report an image that cannot be pulled."""
MOST_WORDS = 1000
"""Limit on the characters of a machine's events that are passed on; the latest are kept."""
LEFT = frozenset({"stopped", "failed", "launch_failed"})
"""States of an ended machine that still exists: its disk costs until it is deleted."""


def state_of(machine: Mapping[str, Any]) -> MachineState:
    state = machine["state"]
    if state in RUNNING:
        return MachineState.started
    # An unknown state: callers that wait for the machine ask again.
    return MachineState.gone if state in OVER else MachineState.requested


def status_of(machine_id: str, machine: Mapping[str, Any]) -> MachineStatus:
    state = state_of(machine)
    if state is not MachineState.gone:
        return MachineStatus(machine_id, state)
    ended = _exit_event(machine)
    if ended is None:
        output = (
            "" if has_run(machine) else f"Fly never started the machine; its events: {history(machine)}\n"
        )
        return MachineStatus(machine_id, state, output=output)
    memory = config_of(machine).get("guest", {}).get("memory_mb") if ended.get("oom_killed") else None
    return MachineStatus(machine_id, state, _exit_code(ended), out_of_memory_mb=memory)


def has_run(machine: Mapping[str, Any]) -> bool:
    """Return True if its program was ever started."""
    return any(
        event.get("type") == "exit" or (event.get("type"), event.get("status")) == ("start", "started")
        for event in machine.get("events", ())
    )


def history(machine: Mapping[str, Any]) -> str:
    """Return the machine's events for people, the earliest first: `launch created, launch failed (…)`."""
    events = [
        f"{event.get('type')} {event.get('status')}" + (f" ({words})" if (words := _words_of(event)) else "")
        for event in reversed(machine.get("events") or ())
    ]
    return ", ".join(events)[-MOST_WORDS:] or "none"


def lacks_image(machine: Mapping[str, Any]) -> bool:
    """Return True if the events of a machine that never ran report an image that cannot be pulled.

    Fly describes an event's type and status as text, and its request as an object: any of them may report it.
    """
    return any(sign in history(machine).lower() for sign in NO_IMAGE)


def _words_of(event: Mapping[str, Any]) -> str:
    """Return an event's request as text, each value with its name: `error: manifest unknown`."""
    return "; ".join(_texts(event.get("request") or {}))


def _texts(said: Mapping[str, Any]) -> Iterator[str]:
    for name, value in said.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str) and not name.endswith("_at"):
            yield f"{name}: {value}"


def machine_id_of(machine: Mapping[str, Any], place: Place) -> str:
    """Return the id of this deployment's machine; empty for any other machine.

    Metadata and name must agree: `fly machine clone` copies the metadata.
    """
    metadata = metadata_of(machine)
    machine_id = metadata.get(MACHINE_KEY, "")
    ours = metadata.get(DEPLOYMENT_KEY) == place.deployment and machine.get("name") == place.name(machine_id)
    return machine_id if ours else ""


def is_machine(machine: Mapping[str, Any], place: Place, machine_id: str) -> bool:
    """Return True if Fly shows this machine of this deployment.

    Fly may show a machine without its config while its host is down. Its name, unique in the app, then
    identifies it.
    """
    if config_of(machine):
        return machine_id_of(machine, place) == machine_id
    return machine.get("name") == place.name(machine_id)


def metadata_of(machine: Mapping[str, Any]) -> Mapping[str, str]:
    return config_of(machine).get("metadata") or {}


def config_of(machine: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the machine's config. While its host does not answer, Fly shows it in another member."""
    return machine.get("config") or machine.get("incomplete_config") or {}


def _exit_event(machine: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the last exit. Fly lists the latest event first."""
    for event in machine.get("events", ()):
        if event.get("type") == "exit":
            request = event.get("request") or {}
            return (request.get("MonitorEvent") or {}).get("exit_event") or request.get("exit_event")
    return None


def _exit_code(ended: Mapping[str, Any]) -> int | None:
    code, number = ended.get("exit_code"), ended.get("guest_signal", -1)
    # A program killed by a signal has no exit code of its own.
    return 128 + number if not code and number > 0 else code
