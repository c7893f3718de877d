"""Machines of the reserve: their transitions, and what the keeper does about them. Pure.

    requested → started → idle → claimed → assigned → gone
        └─────────┴────────┴────────┴──→ retired ───────┘

A machine without a session is in the reserve until it is claimed or retired. From `claimed` on its session's
row names it, and only there: the session that it served last is its only one. `claimed` ends in one of two
ways, and both are written under the lock of the session's row, so that one bot wins:

- the machine says that it serves the session (`acknowledged`), which counts as its start; or
- the session gets a machine of its own (`fallen_back`), and this one is retired. Its word comes too late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from dispatcher.domain.model import Machine, MachineState, Phase, Session, SessionState

WAITING = (MachineState.requested, MachineState.started, MachineState.idle)
"""The states of a machine that is in the reserve, or on its way to it."""

UNASSIGNED: tuple[Phase, ...] = ("booting", "loading", "idle")
"""Phases in which a machine of the reserve has not begun with its session, if it has any."""


def is_waiting(machine: Machine) -> bool:
    """Return True if the machine is in the reserve, or on its way to it."""
    return machine.agent is not None and machine.session_id is None and machine.state in WAITING


def own_machine_id(session: Session) -> str:
    """Return the id of the machine that is made for this session alone."""
    return f"m-{session.id}"


def waits(machine: Machine, now: float) -> Machine:
    """Record that a machine says that it waits for a session."""
    if not is_waiting(machine) or machine.state is MachineState.idle:
        return machine
    return replace(machine, state=MachineState.idle, seen_at=now)


def retired(machine: Machine) -> Machine:
    """Take a machine that waits out of the reserve: no session can claim it any more."""
    return replace(machine, state=MachineState.retired) if is_waiting(machine) else machine


def may_claim(session: Session, own: Machine, replica: str) -> bool:
    """Return True if the session may take a machine of the reserve instead of its own.

    Its own was written down and nobody has asked a provider for it: this replica would be the first, and
    nobody has taken the start over.
    """
    return (
        session.state is SessionState.starting
        and session.started_at is None
        and session.machine_id == own.id == own_machine_id(session)
        and own.state is MachineState.requested
        and own.launcher == replica
    )


def claimed(session: Session, machine: Machine, own: Machine) -> tuple[Session, Machine]:
    """Give an idle machine to a session.

    Args:
        own: The machine that the session does not need now. Its start's deadline and launcher hold on.
    """
    taken = replace(
        machine,
        session_id=session.id,
        state=MachineState.claimed,
        launcher=own.launcher,
        create_by=own.create_by,
    )
    return replace(session, machine_id=machine.id), taken


def is_claimed(session: Session, machine: Machine, replica: str) -> bool:
    """Return True if this replica has claimed the machine for the session, which does not serve it yet."""
    return (
        session.state is SessionState.starting
        and session.started_at is None
        and session.machine_id == machine.id
        and machine.state is MachineState.claimed
        and machine.launcher == replica
    )


def acknowledged(machine: Machine) -> Machine:
    """Record that a claimed machine serves its session."""
    return replace(machine, state=MachineState.assigned) if machine.state is MachineState.claimed else machine


def fallen_back(session: Session, machine: Machine, own: Machine) -> tuple[Session, Machine] | None:
    """Take the session from a machine that did not acknowledge it. None if it did, or the session is over.

    Args:
        own: The machine that the session gets instead.
    """
    if session.over or session.started_at is not None or session.machine_id != machine.id:
        return None
    if machine.state is not MachineState.claimed:
        return None
    return (
        replace(session, machine_id=own.id),
        replace(machine, session_id=None, state=MachineState.retired),
    )


@dataclass(frozen=True, slots=True)
class Wish:
    """A wish for one agent's reserve."""

    machines: int
    """Machines that wait or start, together."""
    revision: str
    max_age: float
    """Seconds after which a machine is replaced."""
    most: int
    """Limit on all that wait, start, or wait to be replaced."""
    may_create: bool = True
    """False while creates back off."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps towards a wish."""

    create: int = 0
    retire: tuple[tuple[Machine, str], ...] = ()
    """Machines to end, each with the reason in words."""


def plan(wish: Wish, machines: Iterable[Machine], silent: Collection[str], now: float) -> Plan:
    """Return the next steps for an agent's reserve.

    What starts counts as what waits. Machines of another revision, and those that are too old, are kept until
    as many new ones wait: the reserve has no gap. They are replaced one by one where `most` leaves no room.
    Silent machines, and those that never came, go at once. Of too many the oldest idle ones go.

    Args:
        machines: Those that wait or start.
        silent: Ids of those among the idle ones whose channel is lost, or says nothing.
    """
    retire: list[tuple[Machine, str]] = []
    good: list[Machine] = []
    stale: list[tuple[Machine, str]] = []
    for machine in sorted(machines, key=lambda one: (one.created_at, one.id)):
        if machine.id in silent:
            retire.append((machine, "It is silent."))
        elif machine.state is not MachineState.idle and now > (machine.create_by or machine.created_at):
            retire.append((machine, "It did not come in time."))
        elif machine.revision != wish.revision:
            stale.append((machine, "It has another revision."))
        elif now - machine.created_at >= wish.max_age:
            stale.append((machine, "It is too old."))
        else:
            good.append(machine)
    idle = [machine for machine in good if machine.state is MachineState.idle]
    surplus = min(max(len(good) - wish.machines, 0), len(idle))
    retire += [(machine, "There are more than are wanted.") for machine in idle[:surplus]]
    # One that is stale and has not come will never be claimed by anybody of this revision.
    unborn = [one for one in stale if one[0].state is not MachineState.idle]
    waiting = [one for one in stale if one[0].state is MachineState.idle]
    kept = max(wish.machines - (len(idle) - surplus), 0)
    retire += unborn + waiting[: max(len(waiting) - kept, 0)]
    kept_stale = waiting[max(len(waiting) - kept, 0) :]
    missing = max(wish.machines - len(good), 0) if wish.may_create else 0
    room = wish.most - (len(good) - surplus) - len(kept_stale)
    if missing and room <= 0 and kept_stale:
        retire.append(kept_stale[0])
        room += 1
    return Plan(max(min(missing, room), 0), tuple(retire))
