"""Gives sessions machines of the reserve: a claim, the assignment, and a way back to a cold start.

The claim is one transaction. Then the machine is told its session over its channel, and says that it serves
it; that is written down as the session's start. A machine that does not say so in time loses the session,
again in one transaction, to a machine that is made for it: whichever is written first wins, and the other bot
never runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bot.protocol import Assign
from dispatcher.clock import Clock
from dispatcher.domain import reserve, transitions
from dispatcher.domain.model import Machine, MachineState, Session
from dispatcher.domain.timeline import DISPATCHER, Cause
from dispatcher.machines.channels import Channels
from dispatcher.machines.fleet import Fleet
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.specs import Specs, assignment
from dispatcher.sessions.terminator import Terminator
from dispatcher.store.store import Store
from dispatcher.tasks import within

log = logging.getLogger(__name__)

ASSIGN_SECONDS = 2.0
"""Limit on the answer to an assignment. A process answers in some 10 ms and a paused container in 150; a cold
start takes seconds, so that waiting longer would cost more than it saves."""

Result = Literal["claimed", "none_idle", "unanswered"]
"""Result of a start of an agent with a reserve, for the metrics."""
OnResult = Callable[[str, Result], None]


@dataclass(frozen=True, slots=True)
class Cold:
    """The session needs a machine of its own: both rows, as they are now."""

    session: Session
    machine: Machine


class Assigner:
    """Assigns machines of the reserve.

    Args:
        on_result: Called with the agent and the result of each try.
    """

    def __init__(
        self,
        *,
        store: Store,
        repository: Repository,
        terminator: Terminator,
        fleet: Fleet,
        channels: Channels,
        specs: Specs,
        clock: Clock,
        background: DurableBackground,
        on_result: OnResult,
    ) -> None:
        self._store = store
        self._repository = repository
        self._terminator = terminator
        self._fleet = fleet
        self._channels = channels
        self._specs = specs
        self._clock = clock
        self._background = background
        self._on_result = on_result
        self._on_claim: list[Callable[[], None]] = []

    def observe_claims(self, observer: Callable[[], None]) -> None:
        """Tell one more of every claim: a machine is to be replaced."""
        self._on_claim.append(observer)

    def has_reserve(self, agent: str) -> bool:
        return self._specs.agents[agent].reserve is not None

    async def assign(self, session: Session, machine: Machine) -> Cold | None:
        """Give the session a machine of the reserve. None if one serves it, or the session is over.

        Args:
            machine: The session's own, for which nobody was asked yet.
        """
        revision = await self._specs.revision(session.agent)
        replica, cause = self._repository.replica, Cause(DISPATCHER, self._clock.now())
        claimed = await self._background.persist(
            lambda: self._store.reserves.claim(session.id, replica, revision, cause)
        )
        if claimed is None:
            return Cold(session, machine)
        self._repository.tell(session, claimed.session)
        if claimed.machine is None:
            self._on_result(session.agent, "none_idle")
            return Cold(session, machine)
        for observer in self._on_claim:
            observer()
        failed = await self._tell(claimed.session, claimed.machine)
        if failed is None:
            self._on_result(session.agent, "claimed")
            return None
        cold = await self.fall_back(claimed.session, claimed.machine, failed)
        self._on_result(session.agent, "claimed" if cold is None else "unanswered")
        return cold

    async def fall_back(self, session: Session, machine: Machine, why: str) -> Cold | None:
        """Give the session a machine of its own. None if the claimed one serves it, or the session is over.

        Args:
            why: A sentence for the timeline.
        """

        def own(current: Session) -> Machine:
            now = self._clock.now()
            placement, provider = self._fleet.first(self._specs.agents[current.agent].placements)
            new = Machine(reserve.own_machine_id(current), current.id, provider, MachineState.requested, now)
            until = machine.create_by if machine.create_by is not None else now
            return transitions.wanted(new, placement, provider, until, self._repository.replica)

        cause = Cause(DISPATCHER, self._clock.now())
        fallen = await self._background.persist(
            lambda: self._store.reserves.fall_back(session.id, machine.id, own, why, cause)
        )
        if fallen is None:
            return None
        log.warning("session %s: cold: %s", session.id, why)
        self._terminator.terminate_later(machine.id, "Another machine serves the session.")
        self._repository.tell(session, fallen[0])
        return Cold(*fallen)

    async def _tell(self, session: Session, machine: Machine) -> str | None:
        """Send the assignment and wait for the answer. Return what went wrong, as a sentence."""
        deadline = self._clock.monotonic() + ASSIGN_SECONDS
        late = TimeoutError()
        try:
            message = Assign(assignment=assignment(session))
            sent = await within(self._clock, ASSIGN_SECONDS, self._channels.send(machine.id, message), late)
            if not sent:
                return f"the machine {machine.id} of the reserve is not connected."
            left = deadline - self._clock.monotonic()
            answered = self._background.persist(lambda: self._repository.until(session.id, _is_decided))
            await within(self._clock, left, answered, late)
        except TimeoutError:
            return f"the machine {machine.id} of the reserve did not answer within {ASSIGN_SECONDS:g} s."
        return None


def _is_decided(session: Session) -> bool:
    return session.over or session.started_at is not None
