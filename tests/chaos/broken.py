"""Dispatchers that are broken on purpose, each in one way that a change could break them: all must be caught.

A variant patches the real classes while simulations run, and names the promises that it may be caught by.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dispatcher.domain import admission, deadlines, ends, model, timeline, transitions
from dispatcher.domain.model import MachineState, SessionState
from dispatcher.domain.timeline import DISPATCHER
from dispatcher.machines import failover, fleet, placement
from dispatcher.machines.provider import NoCapacity, Unreachable
from dispatcher.sessions import launcher, machine_reports, service, starts, terminator
from dispatcher.sessions.maintenance import reaper
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.rooms import Rooms
from dispatcher.store import capacity, threads, writes
from dispatcher.store.tables import claims
from dispatcher.transports.daily.transport import Daily
from dispatcher.transports.errors import RoomError
from tests.chaos.world import AS_DRAWN, Outcome, Script, simulate

Patch = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Broken:
    """A way to break a dispatcher, and the invariants of which one must notice."""

    patch: Patch
    caught_by: frozenset[str]
    script: Script = AS_DRAWN
    """Given for what only few seeds bring out."""


VARIANTS: dict[str, Broken] = {}


def variant(*caught_by: str, script: Script = AS_DRAWN) -> Callable[[Patch], Patch]:
    def add(patch: Patch) -> Patch:
        VARIANTS[patch.__name__] = Broken(patch, frozenset(caught_by), script)
        return patch

    return add


def hunt(name: str, seeds: range) -> tuple[int, Outcome | None]:
    """Play seeds until the variant is caught; how many it took, and the one that caught it."""
    with VARIANTS[name].patch():
        for number, seed in enumerate(seeds, start=1):
            outcome = simulate(seed, VARIANTS[name].script)
            if outcome.violation is not None:
                return number, outcome
    return len(seeds), None


def _async(result: Any = None) -> Callable[..., Any]:
    async def nothing(*_: Any, **__: Any) -> Any:
        return result

    return nothing


@variant("intent first")
def no_intent_row() -> Any:
    """A machine is asked for before its row says where."""
    wanted = transitions.wanted

    def nowhere(*given: Any) -> model.Machine:
        return replace(wanted(*given), placement=None)

    create, resume = fleet.Fleet.create, fleet.Fleet.resume

    async def create_unplaced(
        self: fleet.Fleet, spec: Any, names: Any, deadline: float, _place: Any, *more: Any, **named: Any
    ) -> Any:
        return await create(self, spec, names, deadline, _async(True), *more, **named)

    async def resume_unplaced(
        self: fleet.Fleet, spec: Any, names: Any, deadline: float, _place: Any, *more: Any, **named: Any
    ) -> Any:
        return await resume(self, spec, names, deadline, _async(True), *more, **named)

    return _all(
        mock.patch.object(fleet.Fleet, "create", create_unplaced),
        mock.patch.object(fleet.Fleet, "resume", resume_unplaced),
        mock.patch.object(transitions, "wanted", nowhere),
    )


@variant("one machine", "gone is gone")
def no_look_up_after_a_lost_reply() -> Any:
    """A create without an answer is taken for one that did not happen."""
    create = placement.Placement.create

    async def refused(self: placement.Placement, *given: Any) -> Any:
        try:
            return await create(self, *given)
        except Unreachable as error:
            raise NoCapacity(str(error)) from error

    return mock.patch.object(placement.Placement, "create", refused)


@variant("one machine", "gone is gone", "reasons")
def absence_is_believed_at_once() -> Any:
    """A machine that a provider does not know yet is taken for gone."""
    return mock.patch.object(placement.Placement, "settling", 0.0)


@variant("one machine", "gone is gone", script=Script(placements=2, machines={"dark_after_create": 0.5}))
def unknown_is_taken_for_a_no() -> Any:
    """The next placement is asked although the last one may have the machine."""
    return mock.patch.object(failover, "may_go_on", return_value=True)


@variant(
    "reasons",
    script=Script(
        alone=True,
        machines={"slow": 0.5},
        agents={
            "start_timeout_seconds": 4.0,
            "client_timeout_seconds": 4.0,
            "idle_timeout_seconds": 2.0,
        },
    ),
)
def reaper_does_not_re_read() -> Any:
    """A deadline is judged by a session as it was read a second ago."""

    async def close(
        self: terminator.Terminator, session: model.Session, why: Any, by: str = DISPATCHER
    ) -> None:
        if (end := why(session)) is not None:
            await self._clock.sleep(1)
            await self.close(session, end, by)

    return mock.patch.object(terminator.Terminator, "close_if", close)


@variant("answers", "no internal errors", script=Script(lost_commits=0.1))
def commit_in_doubt_is_tried_again() -> Any:
    """A transaction whose answer was lost is taken for one that was not kept."""

    original = threads.InThreads.write

    async def write(self: threads.InThreads, work: Callable[[sa.Connection], Any], until: float) -> Any:
        try:
            return await original(self, work, until)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return await original(self, work, until)

    return mock.patch.object(threads.InThreads, "write", write)


@variant("settles")
def nobody_looks_after_a_crash() -> Any:
    """There is no reaper."""
    return mock.patch.object(reaper.Reaper, "tick", _async())


@variant("reasons")
def silence_is_taken_for_death() -> Any:
    """A machine that was not heard for a while is closed, whatever its provider says."""
    return mock.patch.object(deadlines, "is_lost", return_value=True)


@variant("reasons", script=Script(alone=True, machines={"refused_late": 0.9}))
def gone_counts_while_it_is_asked_for() -> Any:
    """A machine that a host shows as gone is gone, although its create was not answered."""

    def is_lost(status: Any, *_: Any) -> bool:
        return status is not None and status.state is MachineState.gone

    return mock.patch.object(deadlines, "is_lost", is_lost)


@variant("reasons")
def a_lost_channel_ends_the_session() -> Any:
    """A machine whose connection broke is taken for gone."""
    original = machine_reports.MachineReports.disconnected

    def disconnected(self: machine_reports.MachineReports, machine_id: str, connection: Any) -> None:
        async def close() -> None:
            session = await self._store.session_of_machine(machine_id)
            if session is not None:
                await self._terminator.close(session, ends.end_by_loss(None))

        original(self, machine_id, connection)
        self._terminator._background.spawn(close())

    return mock.patch.object(machine_reports.MachineReports, "disconnected", disconnected)


@variant("one session", script=Script(alone=True, rush=True))
def claim_without_a_lock() -> Any:
    """A key is looked up before the transaction, and written in it without another look."""

    def stake(connection: sa.Connection, claim: Any, now: float) -> None:
        connection.execute(sa.delete(claims).where(claims.c.id == claim.id))
        values = {name: getattr(claim, name) for name in claim.__dataclass_fields__}
        connection.execute(sa.insert(claims).values(**values))

    return mock.patch.object(writes, "stake_claim", stake)


@variant("one session")
def duplicate_key_starts_again() -> Any:
    """Keys are ignored."""
    original = starts.Starts.start

    async def start(self: starts.Starts, given: starts.Start) -> Any:
        return await original(self, replace(given, key=None))

    return mock.patch.object(starts.Starts, "start", start)


@variant("limits", script=Script(alone=True, agents={"max_sessions": 1}, rush=True))
def limit_counted_outside_the_transaction() -> Any:
    """The free slots are counted first, and taken in another transaction."""
    seen: dict[str, Any] = {}
    add, enter, lock = writes.Writes.add, capacity.enter, capacity.lock_loads

    async def add_later(self: writes.Writes, session: model.Session, *more: Any) -> Any:
        seen[session.id] = await self._database.read(capacity.counted)
        return await add(self, session, *more)

    def enter_as_seen(connection: sa.Connection, session: model.Session, limits: Any) -> bool:
        def locked(*given: Any) -> Any:
            lock(*given)
            return seen[session.id]

        with mock.patch.object(capacity, "lock_loads", locked):
            return enter(connection, session, limits)

    return _all(
        mock.patch.object(writes.Writes, "add", add_later),
        mock.patch.object(capacity, "enter", enter_as_seen),
    )


@variant("machines")
def slot_is_free_before_its_machine_is_gone() -> Any:
    """A session that is over counts no more, although its machine is still there."""
    return mock.patch.object(transitions, "ending", lambda _, after, *__: after)


@variant("counters", "limits")
def failures_are_not_counted_down() -> Any:
    """A session that fails keeps its line."""
    moved = capacity.moved

    def unless_failed(connection: Any, before: model.Session, after: model.Session) -> None:
        if after.state is not SessionState.failed:
            moved(connection, before, after)

    return mock.patch.object(capacity, "moved", unless_failed)


@variant(
    "first come, first served",
    script=Script(
        alone=True,
        settings={"max_sessions": 2},
        agents={"max_sessions": 2, "max_queued": 5},
        crowd=True,
        deaf=True,
    ),
)
def newcomers_overtake() -> Any:
    """A free slot goes to whoever asks at the right moment, not to whoever waits."""
    return mock.patch.object(admission, "may_overtake", return_value=True)


@variant("one machine", "gone is gone")
def queue_admits_twice() -> Any:
    """A session that gets its line is launched by two at once."""
    launch, begin = launcher.Launcher.launch, launcher.Launches.begin

    def launch_twice(self: launcher.Launcher, session: model.Session, machine: model.Machine) -> None:
        for _ in range(2):
            launch(self, session, machine)

    def begin_again(self: launcher.Launches, machine: model.Machine) -> bool:
        # What a launcher knows of what it did, another one does not.
        self.lost(machine.id)
        return begin(self, machine)

    return _all(
        mock.patch.object(launcher.Launcher, "launch", launch_twice),
        mock.patch.object(launcher.Launches, "begin", begin_again),
    )


@variant("hang-ups")
def hang_up_keeps_the_place() -> Any:
    """A caller who is gone goes on waiting for a line."""
    return mock.patch.object(service.SessionService, "hang_up", _async(True))


@variant("settles")
def release_forgets_the_row() -> Any:
    """Machines go, and nobody writes it down."""
    return mock.patch.object(terminator.Terminator, "note_if_gone", _async(False))


@variant("gone is gone")
def stop_is_taken_for_gone() -> Any:
    """A machine is on record as gone once it was asked to go."""

    async def note(self: terminator.Terminator, machine_id: str) -> bool:
        machine = await self._store.machine(machine_id)
        assert machine is not None
        return await self._repository.machine_gone(machine_id, machine.placement, None)

    return mock.patch.object(terminator.Terminator, "note_if_gone", note)


@variant("gone is gone", "reasons")
def stop_before_start_leaves_the_machine() -> Any:
    """A session that is stopped while its machine is created has none on record, and gets one."""
    return mock.patch.object(deadlines, "absence_counts", return_value=True)


@variant("timeline", "followers")
def session_closed_without_event() -> Any:
    """A session is over, and its timeline does not say so."""
    return mock.patch.object(timeline, "end_events", return_value=())


@variant("first reason", "lifecycle", "reasons", "timeline")
def the_last_reason_wins() -> Any:
    """A session that is over can be closed again."""
    original = transitions.over

    def again(session: model.Session, end: model.End, now: float) -> model.Session:
        return original(replace(session, state=SessionState.active), end, now)

    return mock.patch.object(transitions, "over", again)


@variant("answers", "intent first")
def answered_before_it_is_written() -> Any:
    """A start is answered, and its machine asked for, while its row is on its way."""
    original = Repository.add
    tasks: set[asyncio.Task[Any]] = set()

    async def add(
        self: Repository,
        session: model.Session,
        machine: Any,
        admitted: Any,
        limits: Any,
        by: str,
        claim: Any,
    ) -> Any:
        tasks.add(asyncio.ensure_future(original(self, session, machine, admitted, limits, by, claim)))
        return transitions.admitted(session, session.created_at), admitted

    return mock.patch.object(Repository, "add", add)


@variant("silence", script=Script(alone=True, agents={"max_duration_seconds": 600.0}, hanging=0.8))
def the_silent_are_left() -> Any:
    """A machine that says nothing more keeps its session for as long as it runs."""
    return mock.patch.object(deadlines, "is_unresponsive", return_value=False)


@variant("answers")
def nobody_waits_for_the_start() -> Any:
    """`wait` is ignored."""

    async def joined(self: service.SessionService, started: Any, wait: str) -> Any:
        return started

    return mock.patch.object(service.SessionService, "joined", joined)


@variant("rooms")
def rooms_are_left_to_expire() -> Any:
    """Nobody deletes them."""
    return mock.patch.object(Rooms, "look", _async())


@variant(
    "rooms", "gone is gone", script=Script(alone=True, rooms={"slow": 0.8, "lost_replies": 0.6}, crowd=True)
)
def rooms_are_deleted_once() -> Any:
    """That a call without an answer may still make a room is forgotten."""
    return mock.patch.object(deadlines, "room_settled_at", return_value=0.0)


@variant("intent first")
def room_before_its_row() -> Any:
    """A room is asked for while its session is on its way to the store."""
    original = Daily.prepare

    async def prepare(self: Daily, session_id: str, wanted: Any, until: float, deadline: float) -> Any:
        prepared = await original(self, session_id, wanted, until, deadline)
        if prepared.room is not None:
            with contextlib.suppress(RoomError):
                await self.open_room(session_id, prepared.room, until, until, _async())
        return prepared

    return mock.patch.object(Daily, "prepare", prepare)


@variant("answers", script=Script(alone=True, rooms={"slow": 0.8}))
def answered_before_the_room() -> Any:
    """A machine that started is all that a start waits for."""
    reached = {
        **service.REACHED,
        "started": lambda current: current.over or current.started_at is not None,
    }
    return mock.patch.object(service, "REACHED", reached)


@contextlib.contextmanager
def _all(*patches: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield
