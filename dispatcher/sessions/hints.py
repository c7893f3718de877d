"""Hints of third parties about a session. Never proof: a hint makes us look sooner, and is on record.

A room's service says that the meeting ended when the last one left, who may come back in a moment; its
messages come late, twice, or not at all. What ends a session is its bot's word, its machine's end, or a
deadline.
"""

from __future__ import annotations

from collections.abc import Callable

from dispatcher.bus import Bus
from dispatcher.domain.model import MachineState
from dispatcher.log_context import about_session
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.store.store import Store

TOPIC = "hints"


class Hints:
    """Takes hints, and passes on which machines to look at: whoever hears it first is hardly the reaper.

    Args:
        look_soon: Called with the id of a machine that should be looked after now, whichever replica took
            the hint.
    """

    def __init__(
        self,
        *,
        store: Store,
        repository: Repository,
        bus: Bus,
        background: DurableBackground,
        look_soon: Callable[[str], None],
    ) -> None:
        self._store = store
        self._repository = repository
        self._bus = bus
        self._background = background
        self._look_soon = look_soon
        bus.subscribe(TOPIC, self)

    def received(self, sender: str, payload: str) -> None:
        """Another replica took a hint about this machine."""
        self._look_soon(payload)

    def resumed(self) -> None:
        """A hint that was lost was only a hint."""

    def about_room(self, session_id: str, message: str, *, is_end: bool) -> None:
        """Something happened in a session's room. Returns at once: who says so wants a prompt answer.

        Args:
            message: For people, on the session's timeline while it lives.
            is_end: Whether nobody is there any more.
        """
        self._background.persist_later(lambda: self._about_room(session_id, message, is_end=is_end))

    def about_machine(self, machine_id: str) -> None:
        """Something happened to a machine, its provider says. Returns at once."""
        self._background.persist_later(lambda: self._about_machine(machine_id))

    async def _about_machine(self, machine_id: str) -> None:
        machine = await self._store.machine(machine_id)
        if machine is not None and machine.state is not MachineState.gone:
            self._look_soon(machine_id)
            self._bus.publish(TOPIC, machine_id)

    async def _about_room(self, session_id: str, message: str, *, is_end: bool) -> None:
        session = await self._store.session(session_id)
        if session is None or session.over:
            return
        with about_session(session):
            await self._repository.room_event(session.machine_id, message)
            if is_end:
                self._look_soon(session.machine_id)
                self._bus.publish(TOPIC, session.machine_id)
