"""Which machines this replica asks for, so that it asks for each once."""

from __future__ import annotations

import heapq

from dispatcher.clock import Clock
from dispatcher.sessions.lifecycle import Machine


class Launches:
    """Remembers machines until their deadline, from which on nobody begins to ask for them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun: set[str] = set()
        self._inherited: set[str] = set()
        self._until: list[tuple[float, str]] = []
        """A heap."""

    def begin(self, machine: Machine) -> bool:
        """Whether to ask for it now: not if that was begun already, or its time has passed."""
        if deadline(machine) <= self._clock.now() or machine.id in self._begun:
            return False
        self._remember(machine, self._begun)
        return True

    def begun(self, machine_id: str) -> bool:
        return machine_id in self._begun

    def inherit(self, machine: Machine) -> None:
        """Another replica may have asked for it, and it is about to become ours.

        To be said before the row does: of a write that was kept the answer may be lost.
        """
        self._remember(machine, self._inherited)

    def inherited(self, machine_id: str) -> bool:
        return machine_id in self._inherited

    def lost(self, machine_id: str) -> None:
        """Another replica asks for it now, and may die over it in its turn."""
        self._begun.discard(machine_id)

    def _remember(self, machine: Machine, to: set[str]) -> None:
        now = self._clock.now()
        while self._until and self._until[0][0] <= now:
            machine_id = heapq.heappop(self._until)[1]
            self._begun.discard(machine_id)
            self._inherited.discard(machine_id)
        to.add(machine.id)
        heapq.heappush(self._until, (deadline(machine), machine.id))


def deadline(machine: Machine) -> float:
    """When its session no longer wants it: Unix seconds. The session was admitted."""
    if machine.create_by is None:
        raise AssertionError(f"machine {machine.id}: its session was admitted without it")
    return machine.create_by
