"""Orders of machines for the reserve: a row first, then the fleet is asked in the background."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from dispatcher.clock import Clock
from dispatcher.domain import reserve, transitions
from dispatcher.domain.deadlines import START_SHARE
from dispatcher.domain.model import RESERVE_PREFIX, Machine, MachineState
from dispatcher.domain.timeline import DISPATCHER, PROVIDER
from dispatcher.machines.fleet import Fleet, NoMachine, NotWanted, Place
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.specs import Specs
from dispatcher.sessions.terminator import Terminator
from dispatcher.settings import AgentSettings
from dispatcher.store.store import Store

log = logging.getLogger(__name__)


class Orders:
    """Orders machines, one by one."""

    def __init__(
        self,
        *,
        store: Store,
        repository: Repository,
        terminator: Terminator,
        fleet: Fleet,
        specs: Specs,
        leadership: Leadership,
        clock: Clock,
        background: DurableBackground,
    ) -> None:
        self._store = store
        self._repository = repository
        self._terminator = terminator
        self._fleet = fleet
        self._specs = specs
        self._leadership = leadership
        self._clock = clock
        self._background = background

    async def add(self, name: str, agent: AgentSettings, wish: reserve.Wish) -> str | None:
        """Write a new machine down, and ask for it in the background.

        Returns:
            Its id; None if the agent has as many as it may have.
        """
        now = self._clock.now()
        placement, provider = self._fleet.first(agent.placements)
        machine = Machine(
            id=f"{RESERVE_PREFIX}{uuid.uuid4().hex}",
            session_id=None,
            provider=provider,
            state=MachineState.requested,
            created_at=now,
            placement=placement,
            create_by=now + START_SHARE * agent.start_timeout_seconds,
            launcher=self._repository.replica,
            agent=name,
            revision=wish.revision,
        )
        if not await self._store.reserves.add(machine, wish.most):
            return None
        self._background.spawn(self._create(machine, agent))
        return machine.id

    async def _create(self, machine: Machine, agent: AgentSettings) -> None:
        """Ask the fleet for a machine, and write down what came of it."""
        deadline = machine.create_by if machine.create_by is not None else self._clock.now()
        try:
            status = await self._fleet.create(
                self._specs.reserved(machine), agent.placements, deadline, self._places(machine.id)
            )
        except NotWanted:
            nowhere = True
        except NoMachine as none:
            log.warning("machine %s of the reserve: none: %s", machine.id, none)
            nowhere = none.nowhere
        else:
            if status.state is MachineState.started:
                await self._change(machine.id, transitions.machine_started)
            elif status.state is MachineState.gone:
                now = self._clock.now()
                await self._change(machine.id, lambda current: transitions.machine_gone(current, status, now))
            return
        if nowhere:
            now = self._clock.now()
            await self._change(machine.id, lambda current: transitions.machine_gone(current, None, now))
        else:
            await self._change(machine.id, reserve.retired)
            self._terminator.terminate_later(machine.id, "Its create failed.")

    async def _change(self, machine_id: str, change: Callable[[Machine], Machine]) -> None:
        await self._background.persist(lambda: self._repository.change_machine(machine_id, change, PROVIDER))

    def _places(self, machine_id: str) -> Place:
        async def place(placement: str, provider: str) -> bool:
            if not self._leadership.held:
                # Another keeper may count it as one that does not come, and end it.
                return False
            after = await self._background.persist(
                lambda: self._repository.change_machine(
                    machine_id, lambda current: transitions.placed(current, placement, provider), DISPATCHER
                )
            )
            return after is not None and reserve.is_waiting(after)

        return place
