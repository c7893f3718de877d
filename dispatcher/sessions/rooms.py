"""Rooms of sessions whose transport has them: opened while their machines start, deleted when they are over.

Room and machine are asked for at the same time. Whichever cannot be had ends the session, and that undoes the
other: a machine is terminated, a room is deleted as that of any session that is over. What is to be deleted
is in the sessions' rows, so it outlives a dispatcher; the one replica that is the reaper deletes, one room
after the other, within the rate of the service that has them. Should all of that fail, rooms close by
themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain import deadlines, transitions
from dispatcher.domain.model import End, Session
from dispatcher.domain.timeline import DISPATCHER, PROVIDER, REAPER
from dispatcher.log_context import about_session
from dispatcher.sessions.failures import end_by_room
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.terminator import Terminator
from dispatcher.store.store import Store
from dispatcher.transports.errors import Refused, RoomError
from dispatcher.transports.transport import HasRooms, Room, Transport

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks for rooms that have to be deleted: one query, by an index."""

RARE_LOOK_SECONDS = 60.0
"""Pause between two looks of a deployment that has no rooms (any more)."""

AT_ONCE = 100
"""Rooms of one look."""

CLOSE_SECONDS = 60.0
"""Limit on deleting one room, with the wait for its turn."""

PAUSES = (2.0, 5.0, 15.0, 30.0)
"""After looks that the service that has the rooms did not answer."""

GONE = "This deployment has no rooms any more for the transport of this session."


class _NotWanted(Exception):
    """The room is no longer wanted, or another replica asks for it now."""


@dataclass(frozen=True, slots=True)
class RoomOutcome:
    """Answer of the transport to a call for a room: what is to be written down."""

    kind: Literal["opened", "failed", "not_ours"]
    certain: bool = False
    """Opened: no call under way can bring it back. Failed: there is no room, and no call makes one."""
    end: End | None = None


class Rooms:
    """Opens and deletes rooms. What another replica has taken over is no longer asked for."""

    def __init__(
        self,
        *,
        transports: Mapping[str, Transport],
        store: Store,
        repository: Repository,
        terminator: Terminator,
        leadership: Leadership,
        clock: Clock,
        background: DurableBackground,
    ) -> None:
        self._with_rooms = {name: one for name, one in transports.items() if isinstance(one, HasRooms)}
        self._store = store
        self._repository = repository
        self._terminator = terminator
        self._leadership = leadership
        self._clock = clock
        self._background = background
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._looking = asyncio.Lock()
        self._failures = 0
        self._resting_until = float("-inf")

    def open(self, session: Session, deadline: float, inherited: Callable[[], bool]) -> asyncio.Event | None:
        """Open the room of a session that was admitted, in the background, if it is to have one.

        Once, whoever says it again. Not if its time has passed.

        Args:
            deadline: Nobody asks for it after that (unix seconds).
            inherited: Whether another replica may have asked for it, too.

        Returns:
            What is set when its turn has come and it is asked for, or that has failed: a bot that is there
            long before its room finds none. None if nothing is opened here.
        """
        if session.room is None or session.room_state != "wanted" or session.id in self._opening:
            return None
        if deadline <= self._clock.now():
            return None
        begun = asyncio.Event()
        opening = self._background.spawn(
            self._open(session, Room(**session.room), deadline, inherited, begun)
        )
        self._opening[session.id] = opening
        opening.add_done_callback(lambda _: self._opened_or_not(session.id, opening, begun))
        return begun

    def _opened_or_not(self, session_id: str, opening: asyncio.Task[None], begun: asyncio.Event) -> None:
        if self._opening.get(session_id) is opening:
            del self._opening[session_id]
        begun.set()

    async def run(self) -> None:
        """Delete what has to be deleted, again and again, until cancelled.

        Without a transport that has rooms there may be sessions from before: theirs close by themselves.
        """
        pause = LOOK_SECONDS if self._with_rooms else RARE_LOOK_SECONDS
        while True:
            await self._clock.sleep(pause)
            try:
                await self.look()
            except SQLAlchemyError as error:
                log.debug("the rooms could not be looked after: %s", error)
            except Exception:
                log.exception("the rooms could not be looked after")

    async def check(self) -> None:
        """Check what the rooms come from, until it is known to be right, or cancelled."""
        await asyncio.gather(*(transport.run() for transport in self._with_rooms.values()))

    async def look(self) -> None:
        """Delete the rooms of sessions that are over, if this replica is the reaper.

        One at a time: of two looks, each would delete what the other does.
        """
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        if not self._leadership.held or self._clock.monotonic() < self._resting_until:
            return
        failed = False
        for session in await self._store.rooms_due(self._clock.now(), AT_ONCE):
            if not self._leadership.held:
                return
            with about_session(session):
                try:
                    await self._delete(session)
                except RoomError as error:
                    log.warning("session %s: its room could not be deleted yet: %s", session.id, error)
                    failed = True
                    if not isinstance(error, Refused):
                        break
        if failed:
            pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
            self._failures, self._resting_until = self._failures + 1, self._clock.monotonic() + pause
        else:
            self._failures = 0

    async def close(self) -> None:
        """Let go of connections. Rooms are not touched."""
        await asyncio.gather(*(transport.close() for transport in self._with_rooms.values()))

    async def _delete(self, session: Session) -> None:
        asked = self._clock.now()
        if asked < deadlines.room_closes_at(session):
            transport = self._with_rooms.get(session.transport)
            if transport is None:
                raise Refused(GONE)
            await transport.close_room(session.id, asked + CLOSE_SECONDS)
        await self._repository.change(
            session.id, lambda current: transitions.room_deleted(current, session, asked), REAPER
        )

    async def _open(
        self,
        session: Session,
        room: Room,
        deadline: float,
        inherited: Callable[[], bool],
        begun: asyncio.Event,
    ) -> None:
        outcome = await self._ask(session, room, deadline, inherited, begun)
        after = await self._background.persist(lambda: self._write_down(session, outcome))
        if after is None or (not after.over and after.room_state == "wanted"):
            # Another replica asks for it, and may have died over it: who took it over from that one found it
            # under way here. From now on it would find nothing.
            self._opening.pop(session.id, None)
            await self._background.persist(lambda: self._take_back(session, deadline, inherited))

    async def _take_back(self, session: Session, deadline: float, inherited: Callable[[], bool]) -> None:
        """Begin anew if the room is ours again by now."""
        current, machine = await self._store.session_with_machine(session.id)
        if current is None or machine is None or machine.launcher != self._repository.replica:
            return
        if transitions.lacks_room(machine, current):
            self.open(current, deadline, inherited)

    async def _ask(
        self,
        session: Session,
        room: Room,
        deadline: float,
        inherited: Callable[[], bool],
        begun: asyncio.Event,
    ) -> RoomOutcome:
        """Ask the transport for the room."""

        async def confirm() -> None:
            begun.set()
            current, machine = await self._background.persist(
                lambda: self._store.session_with_machine(session.id)
            )
            ours = machine is not None and machine.launcher == self._repository.replica
            if current is None or current.over or current.room_state != "wanted" or not ours:
                raise _NotWanted

        try:
            transport = self._with_rooms.get(session.transport)
            if transport is None:
                raise Refused(GONE)
            until = deadlines.room_closes_at(session)
            answered = await transport.open_room(session.id, room, until, deadline, confirm)
        except _NotWanted:
            return RoomOutcome("not_ours")
        except RoomError as error:
            log.warning("session %s: no room: %s", session.id, error)
            return RoomOutcome("failed", error.nowhere and not inherited(), end_by_room(error))
        except Exception as error:
            log.exception("session %s: no room", session.id)
            message = "The dispatcher could not ask for a room; its log says why."
            internal = End("internal_error", message, f"{type(error).__name__}: {error}")
            return RoomOutcome("failed", end=internal)
        return RoomOutcome("opened", answered and not inherited())

    async def _write_down(self, session: Session, outcome: RoomOutcome) -> Session | None:
        """Act on the transport's answer; None if that is another replica's task. Idempotent."""
        if outcome.kind == "not_ours":
            return None
        if outcome.end is not None:
            return await self._failed(session, outcome.end, nowhere=outcome.certain)
        return await self._opened(session, certain=outcome.certain)

    async def _opened(self, session: Session, *, certain: bool) -> Session | None:
        return await self._repository.change(
            session.id,
            lambda current: transitions.room_opened(current, certain=certain),
            PROVIDER,
            if_ours=True,
        )

    async def _failed(self, session: Session, end: End, *, nowhere: bool) -> Session | None:
        """Close a session without a room, and let its machine go; unless another replica starts it by now."""
        now = self._clock.now()

        def change(current: Session) -> Session:
            return transitions.over(transitions.no_room(current) if nowhere else current, end, now)

        after = await self._repository.change(session.id, change, DISPATCHER, if_ours=True)
        if after is not None and after.over:
            self._terminator.terminate_later(session.machine_id, end.message)
        return after
