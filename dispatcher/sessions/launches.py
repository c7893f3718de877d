"""Memory of the machines that this replica has asked for, or has taken over from another one."""

from __future__ import annotations

import heapq

from dispatcher.clock import Clock
from dispatcher.domain.deadlines import ROOM_SETTLING_SECONDS
from dispatcher.domain.model import Machine

INHERITED_SECONDS = 10 * ROOM_SETTLING_SECONDS
"""So long after its deadline it is still known that a machine was inherited. A call for its room that began
before the deadline may take `ROOM_SETTLING_SECONDS`, and what its answer means depends on it."""


class Launches:
    """Remembers machines until their deadline, from which on nobody begins to ask for them."""

    def __init__(self, clock: Clock) -> None:
        self._begun = _Ids(clock)
        self._inherited = _Ids(clock)

    def begin(self, machine: Machine) -> bool:
        """Return True if it is to be asked for now: not begun before, and its time has not passed."""
        return machine.id not in self._begun and self._begun.add(machine.id, deadline(machine))

    def begun(self, machine_id: str) -> bool:
        return machine_id in self._begun

    def inherit(self, machine: Machine) -> None:
        """Another replica may have asked for it, and it is about to become ours.

        To be said before the row does: of a write that was kept the answer may be lost.
        """
        self._inherited.add(machine.id, deadline(machine) + INHERITED_SECONDS)

    def inherited(self, machine_id: str) -> bool:
        return machine_id in self._inherited

    def lost(self, machine_id: str) -> None:
        """Another replica asks for it now, and may die over it in its turn."""
        self._begun.discard(machine_id)


class _Ids:
    """Ids, each until a moment; forgotten at some time after it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ids: set[str] = set()
        self._until: list[tuple[float, str]] = []
        """A heap."""

    def __contains__(self, one: str) -> bool:
        return one in self._ids

    def add(self, one: str, until: float) -> bool:
        """False if that moment has passed."""
        now = self._clock.now()
        while self._until and self._until[0][0] <= now:
            self._ids.discard(heapq.heappop(self._until)[1])
        if until <= now:
            return False
        self._ids.add(one)
        heapq.heappush(self._until, (until, one))
        return True

    def discard(self, one: str) -> None:
        self._ids.discard(one)


def deadline(machine: Machine) -> float:
    """When its session no longer wants it: Unix seconds. The session was admitted."""
    if machine.create_by is None:
        raise AssertionError(f"machine {machine.id}: its session was admitted without it")
    return machine.create_by
