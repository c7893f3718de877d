"""From an admitted session to its machine: what is asked of the fleet, and what becomes of the answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dispatcher.clock import Clock
from dispatcher.domain import ends, transitions
from dispatcher.domain.model import End, Machine, MachineState, MachineStatus, Session
from dispatcher.domain.timeline import DISPATCHER, PROVIDER, REAPER
from dispatcher.log_context import about_session
from dispatcher.machines.fleet import Fleet, NoMachine, NotWanted, Place
from dispatcher.machines.provider import Throttled
from dispatcher.sessions.assigner import Assigner
from dispatcher.sessions.failures import end_by_provider
from dispatcher.sessions.launches import Launches, deadline
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.rooms import Rooms
from dispatcher.sessions.specs import Specs
from dispatcher.sessions.terminator import Terminator
from dispatcher.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartOutcome:
    """Answer of the fleet to a start: what is to be written down.

    requested    nothing: the machine reports itself
    started      its provider says that it started, at this moment
    no_machine   it is certain that there is none, and the session is over if there is an end
    unknown      the session is over, and a machine may be there
    taken_over   another replica goes on with the start
    """

    kind: Literal["requested", "started", "no_machine", "unknown", "taken_over"]
    end: End | None = None
    by: str = PROVIDER
    """Cause of the end, for the timeline."""
    status: MachineStatus | None = None
    """Last status of the machine, if there was one."""
    started_at: float = 0.0
    startup: Mapping[str, float] = field(default_factory=dict[str, float])
    """Stage of the machine's start → seconds, if its provider tells."""


class TakenOver(Exception):
    """Another replica asks for the machine now, or did meanwhile: this one was taken for dead."""


class Launcher:
    """Gets machines for sessions, and their rooms at the same time where their transport has any."""

    def __init__(
        self,
        *,
        store: Store,
        repository: Repository,
        terminator: Terminator,
        rooms: Rooms,
        assigner: Assigner,
        fleet: Fleet,
        specs: Specs,
        clock: Clock,
        background: DurableBackground,
    ) -> None:
        self._store = store
        self._repository = repository
        self._terminator = terminator
        self._rooms = rooms
        self._assigner = assigner
        self._fleet = fleet
        self._specs = specs
        self._clock = clock
        self._background = background
        self._launches = Launches(clock)

    def launch(self, session: Session, machine: Machine) -> None:
        """Ask for the machine of a session that was admitted, in the background; once, whoever says it again.

        Not if its time has passed: the session's own deadline closes it.
        """
        self._begin(session, machine, fresh=True)

    def _begin(self, session: Session, machine: Machine, *, fresh: bool = False) -> None:
        """Ask for what there is not yet: either may have been begun before, and the other not."""
        resumed = self._launches.inherited(machine.id)
        with about_session(session):
            begun = self._rooms.open(session, deadline(machine), lambda: self._launches.inherited(machine.id))
            if transitions.lacks_machine(machine, session) and self._launches.begin(machine):
                self._background.spawn(self._launch(session, machine, begun, fresh=fresh, resumed=resumed))

    def catch_up(self) -> None:
        """The store failed while sessions were admitted here: launch those that are admitted all the same."""
        self._background.spawn(self._catch_up())

    async def _catch_up(self) -> None:
        due = await self._background.persist(lambda: self._store.due_machines(self._clock.now()))
        for machine, listed in due:
            if (
                listed is None
                or machine.launcher != self._repository.replica
                or self._launches.begun(machine.id)
            ):
                continue
            if self._terminator.is_unanswered(listed.id):
                continue
            session = await self._background.persist(lambda listed=listed: self._store.session(listed.id))
            if session is not None and transitions.left_alone(machine, session, self._clock.now()):
                log.warning(
                    "session %s: it was admitted although the store failed, and is launched", session.id
                )
                self._begin(session, machine)

    async def take_over(self, listed: Session, machine: Machine) -> bool:
        """Go on asking for the machine and the room of a launcher that died, in the background.

        False if somebody else does, or the machine is gone.

        Args:
            listed: The session as lists have it.
        """
        if listed.agent not in self._specs.agents:
            # Nothing tells how to make its machine: the start's deadline closes it.
            return False
        session = await self._store.session(listed.id)
        if session is None or session.over:
            return False
        before = machine.launcher
        self._launches.inherit(machine)
        taken = await self._repository.change_machine(
            machine.id,
            lambda current: transitions.handed_on(current, before, self._repository.replica),
            REAPER,
        )
        if taken is None or taken.launcher != self._repository.replica:
            return False
        log.warning("session %s: its start was left by replica %s and goes on here", session.id, before)
        self._begin(session, taken)
        return True

    async def fall_back(self, listed: Session, machine: Machine) -> None:
        """Go on with the start of a launcher that died after it had claimed this machine of the reserve.

        Args:
            listed: The session as lists have it.
        """
        if listed.agent not in self._specs.agents:
            return
        why = f"the dispatcher that assigned the machine {machine.id} of the reserve is gone."
        cold = await self._assigner.fall_back(listed, machine, why)
        if cold is not None:
            # Its room may have been asked for.
            self._launches.inherit(cold.machine)
            self._begin(cold.session, cold.machine)

    async def _launch(
        self, session: Session, machine: Machine, room: asyncio.Event | None, *, fresh: bool, resumed: bool
    ) -> None:
        """Ask the fleet for the session's machine, and write down what came of it.

        Args:
            room: Set when its room is being asked for, if it has one.
        """
        if room is not None and not room.is_set():
            asked = self._clock.now()
            await room.wait()
            fresh = fresh and self._clock.now() == asked
        if not resumed and self._assigner.has_reserve(session.agent):
            cold = await self._assigner.assign(session, machine)
            if cold is None:
                return
            session, machine, fresh = cold.session, cold.machine, False
        outcome = await self._ask(session, machine, fresh=fresh, resumed=resumed)
        await self._background.persist(lambda: self._write_down(session, outcome))

    async def _ask(self, session: Session, machine: Machine, *, fresh: bool, resumed: bool) -> StartOutcome:
        """Ask the fleet for the session's machine."""
        agent = self._specs.agents[session.agent]
        try:
            spec = self._specs.of(session)
            place = self._places(session, machine, fresh=fresh)
            # A caller who accepts a place in the queue accepts to wait for a rate as long.
            accepted = session.created_at + session.queue_seconds - self._clock.now()
            max_delay = max(agent.max_start_delay_seconds, accepted)
            wanted = (spec, agent.placements, deadline(machine), place)
            if resumed and machine.placement is not None:
                status = await self._fleet.resume(*wanted, at=machine.placement, max_delay=max_delay)
            else:
                status = await self._fleet.create(*wanted, max_delay=max_delay)
        except TakenOver:
            log.warning("session %s: another replica goes on with its start", session.id)
            self._launches.lost(machine.id)
            return StartOutcome("taken_over")
        except NotWanted:
            return StartOutcome("no_machine")
        except NoMachine as none:
            # Throttled starts come by the thousand: the fleet logs how many.
            level = logging.DEBUG if isinstance(none.error, Throttled) else logging.WARNING
            log.log(level, "session %s: no machine: %s", session.id, none)
            return StartOutcome("no_machine" if none.nowhere else "unknown", end_by_provider(none.error))
        except Exception as error:
            log.exception("session %s: no machine", session.id)
            message = "The dispatcher could not ask for a machine; its log says why."
            internal = End("internal_error", message, f"{type(error).__name__}: {error}")
            return StartOutcome("unknown", internal, DISPATCHER)
        if status.state is MachineState.requested:
            return StartOutcome("requested")
        if status.state is MachineState.gone:
            # An earlier create of it, whose answer was lost. Its provider may tell only once how it ended.
            return StartOutcome("no_machine", ends.end_by_loss(status), status=status)
        return StartOutcome("started", started_at=self._clock.now(), startup=status.startup)

    async def _write_down(self, session: Session, outcome: StartOutcome) -> None:
        """Act on the fleet's answer. Idempotent."""
        match outcome.kind:
            case "requested":
                return
            case "started":
                await self._started(session, outcome.started_at, outcome.startup)
            case "no_machine":
                await self._nowhere(session, outcome.end, outcome.status)
            case "unknown":
                assert outcome.end is not None  # noqa: S101 - for the type checker
                await self._close(session, outcome.end, outcome.by)
            case "taken_over":
                await self._take_back(session)

    async def _take_back(self, session: Session) -> None:
        """Begin anew where another replica stopped, if that one died too and it is ours again by now.

        Who took it over found it begun here, and left it to that launch, which knew nothing of the other's.
        """
        current, machine = await self._store.session_with_machine(session.id)
        if current is None or machine is None or machine.launcher != self._repository.replica:
            return
        if transitions.left_alone(machine, current, self._clock.now()):
            self._begin(current, machine)

    async def _nowhere(self, session: Session, end: End | None, status: MachineStatus | None = None) -> None:
        """It is certain that there is no machine; unless another replica asks for it by now.

        Args:
            status: How it ended, if there was one.
        """
        now = self._clock.now()
        await self._repository.change(
            session.id,
            lambda current: current if end is None else transitions.over(current, end, now),
            PROVIDER,
            machine=lambda current: transitions.machine_gone(current, status, now),
            if_ours=True,
        )

    async def _close(self, session: Session, end: End, by: str) -> None:
        """Close a session whose machine may be there; unless another replica asks for it by now."""
        now = self._clock.now()
        after = await self._repository.change(
            session.id, lambda current: transitions.over(current, end, now), by, if_ours=True
        )
        if after is not None and after.over:
            self._terminator.terminate_later(session.machine_id, end.message)

    async def _started(self, session: Session, now: float, startup: Mapping[str, float]) -> None:
        after = await self._repository.change(
            session.id,
            lambda current: transitions.started(current, now, startup),
            PROVIDER,
            machine=transitions.machine_started,
        )
        if after is None or after.over:
            # Stopped while the machine was being created: whoever stopped it found no machine to end.
            why = "The session was stopped before its machine started."
            await self._terminator.terminate(session.machine_id, why)

    def _places(self, session: Session, machine: Machine, *, fresh: bool) -> Place:
        """Moves the machine's row from placement to placement, as long as its session wants a machine.

        Args:
            fresh: Whether both rows were written just now, as they are needed for the first placement.
        """
        at = machine.placement

        async def place(placement: str, provider: str) -> bool:
            nonlocal at, fresh
            was_fresh, fresh = fresh, False
            if was_fresh and placement == at:
                return True
            current, known = await self._background.persist(
                lambda: self._store.session_with_machine(session.id)
            )
            # By the placement too: who took it over may have died in its turn, and the machine be there.
            if known is not None and (known.launcher, known.placement) != (self._repository.replica, at):
                raise TakenOver
            if current is None or current.over:
                return False
            if placement == at:
                return True
            moved = await self._background.persist(
                lambda: self._repository.change_machine(
                    machine.id, lambda current: transitions.placed(current, placement, provider), DISPATCHER
                )
            )
            at = placement
            return moved is not None and moved.placement == placement

        return place
