"""The keeper: makes the reserve what its policy wants, if this replica is the leader.

A tick compares rows with wishes (`domain/reserve.py` plans), writes a row for each new machine, and only then
asks the fleet for it. A keeper that dies leaves rows: the next one counts those that start, and ends those
that did not come in time. A machine whose row is gone is an orphan, which the orphan scan ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain import reserve
from dispatcher.domain.admission import Limits, Load
from dispatcher.domain.model import Machine, MachineState
from dispatcher.domain.timeline import DISPATCHER
from dispatcher.machines.channels import Channels
from dispatcher.reserve.arrivals import DAYS
from dispatcher.reserve.calendar import SLOT
from dispatcher.reserve.policy import Bounded, Moment, policy_for
from dispatcher.sessions.maintenance.arrivals import ArrivalCounts
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.sessions.maintenance.orders import Orders
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.specs import Specs
from dispatcher.sessions.terminator import Terminator
from dispatcher.settings import AgentSettings
from dispatcher.store.store import Store
from dispatcher.tasks import rest

log = logging.getLogger(__name__)

TICK_SECONDS = 2.0
"""Between two looks; a claim makes one at once."""

POLICY_SECONDS = 10.0
"""Between two decisions of an agent's policy, as its figures were measured."""

FIRST_LEAD_SECONDS = 10.0
"""Lead time that is assumed until a machine has come."""

LEADS = 20
"""So many of the last machines tell the lead time."""

FIRST_BACKOFF_SECONDS = 5.0
LONGEST_BACKOFF_SECONDS = 300.0
"""Pause after machines that did not come: a broken bot file, a quota, an outage of the provider."""

SILENT_HEARTBEATS = 4
"""An idle machine that missed so many heartbeats is replaced."""

CLEAN_SECONDS = 600.0
GONE_SECONDS = 24 * 3600.0
CLEAN_ROWS = 500
"""Machines of the reserve that served nobody are deleted a day after they are gone."""


@dataclass
class _Agent:
    """The keeper's memory of one agent."""

    policy: Bounded
    seen_calls: dict[int, int]
    decided_at: float = -math.inf
    wanted: int = 0
    reason: str = ""
    leads: deque[float] = field(default_factory=lambda: deque(maxlen=LEADS))
    coming: dict[str, None] = field(default_factory=dict[str, None])
    """Machines that started at the last look."""
    known: set[str] = field(default_factory=set[str])
    """Idle machines whose lead time is counted."""
    failures: int = 0
    again_at: float = -math.inf


class Keeper:
    """Keeps the reserves of all agents.

    Args:
        limits: The limits on sessions: what waits counts against them, and yields to sessions.
    """

    def __init__(
        self,
        *,
        store: Store,
        repository: Repository,
        terminator: Terminator,
        channels: Channels,
        specs: Specs,
        leadership: Leadership,
        arrivals: ArrivalCounts,
        limits: Limits,
        clock: Clock,
        orders: Orders,
    ) -> None:
        self._store = store
        self._repository = repository
        self._terminator = terminator
        self._channels = channels
        self._specs = specs
        self._leadership = leadership
        self._arrivals = arrivals
        self._limits = limits
        self._clock = clock
        self._orders = orders
        self._agents: dict[str, _Agent] = {}
        self._nudged = asyncio.Event()
        self._led_since: float | None = None
        self._cleaned_at = clock.monotonic()
        self._looking = asyncio.Lock()

    @property
    def wanted(self) -> Mapping[str, tuple[int, str]]:
        """Agent → the size that its reserve should have, and why; of this replica, if it leads."""
        return {name: (agent.wanted, agent.reason) for name, agent in self._agents.items()}

    def nudge(self) -> None:
        """A machine was claimed: look at once."""
        self._nudged.set()

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            try:
                await self._arrivals.write()
                await self.tick()
            except SQLAlchemyError as error:
                log.debug("the reserve could not be looked after: %s", error)
            except Exception:
                log.exception("the reserve could not be looked after")
            await rest(self._clock, TICK_SECONDS, self._nudged)
            self._nudged.clear()

    async def tick(self) -> None:
        """Look once, and act. Does nothing if another replica leads."""
        async with self._looking:
            if await self._leadership.keep():
                await self._look()
            else:
                self._agents.clear()
                self._led_since = None

    async def _look(self) -> None:
        now = self._clock.monotonic()
        if self._led_since is None:
            self._led_since = now
        machines = await self._store.reserves.waiting()
        with_reserve = [name for name, agent in self._specs.agents.items() if agent.reserve is not None]
        if not machines and not with_reserve:
            return
        loads = await self._store.loads()
        free = self._free(loads)
        for name in dict.fromkeys([*with_reserve, *(one.agent or "" for one in machines)]):
            if not self._leadership.held:
                return
            theirs = [one for one in machines if one.agent == name]
            agent = self._specs.agents.get(name)
            if agent is None or agent.reserve is None:
                await self._retire([(one, "Its agent has no reserve any more.") for one in theirs])
                continue
            most = max(min(self._of_agent(name, loads), free), 0)
            wanted = await self._keep(name, agent, theirs, loads.get(name, Load()), most)
            free -= wanted
        await self._clean()

    def _free(self, loads: Mapping[str, Load]) -> int:
        """Return the sessions that may still begin in the deployment; a large number without a limit."""
        if self._limits.deployment is None:
            return 1_000_000
        return self._limits.deployment - sum(load.live + load.queued for load in loads.values())

    def _of_agent(self, name: str, loads: Mapping[str, Load]) -> int:
        load = loads.get(name, Load())
        return self._limits.agents.get(name, 0) - load.live - load.queued

    async def _keep(
        self, name: str, agent: AgentSettings, machines: Sequence[Machine], load: Load, most: int
    ) -> int:
        """Take the next steps for one agent. Return the size that its reserve should have."""
        assert agent.reserve is not None  # noqa: S101 - for the type checker
        memory = await self._memory(name, agent)
        await self._learn(memory, name, machines)
        await self._decide(memory, name, load)
        wanted = min(memory.wanted, most)
        wish = reserve.Wish(
            machines=wanted,
            revision=await self._specs.revision(name),
            max_age=agent.reserve.max_age_seconds,
            most=agent.reserve.max,
            may_create=self._clock.monotonic() >= memory.again_at,
        )
        plan = reserve.plan(wish, machines, self._silent(machines), self._clock.now())
        await self._retire(plan.retire)
        for _ in range(plan.create):
            if not self._leadership.held:
                break
            if (ordered := await self._orders.add(name, agent, wish)) is not None:
                memory.coming[ordered] = None
        return wanted

    async def _memory(self, name: str, agent: AgentSettings) -> _Agent:
        if (known := self._agents.get(name)) is not None:
            return known
        assert agent.reserve is not None  # noqa: S101 - for the type checker
        calls = await self._store.reserves.history(name, self._clock.now() - DAYS * 86_400)
        current = self._slot()
        history = {slot: number for slot, number in calls.items() if slot < current}
        recent = {current: calls.get(current, 0)}
        memory = _Agent(policy_for(agent.reserve, history), recent)
        self._agents[name] = memory
        return memory

    def _slot(self) -> int:
        return int(self._clock.now() // SLOT * SLOT)

    async def _learn(self, memory: _Agent, name: str, machines: Sequence[Machine]) -> None:
        """Learn lead times, and which machines did not come."""
        now = self._clock.now()
        idle = [one for one in machines if one.state is MachineState.idle]
        for machine in idle:
            if machine.id not in memory.known and machine.id in memory.coming and machine.seen_at is not None:
                memory.leads.append(max(machine.seen_at - machine.created_at, 0.0))
                memory.failures, memory.again_at = 0, -math.inf
        memory.known = {one.id for one in idle}
        starting = {one.id: one.create_by for one in machines if one.state is not MachineState.idle}
        for machine_id in memory.coming:
            if machine_id in starting or machine_id in memory.known:
                continue
            # It may have come and been claimed since the last look.
            machine = await self._store.machine(machine_id)
            if machine is None or (machine.session_id is None and machine.seen_at is None):
                self._failed(memory, name, f"machine {machine_id} ended before it was ready")
        late = [one for one, by in starting.items() if by is not None and now > by]
        if late:
            self._failed(memory, name, f"machine {late[0]} did not come in time")
        memory.coming = {one: None for one in starting if one not in late}

    def _failed(self, memory: _Agent, name: str, why: str) -> None:
        pause = min(FIRST_BACKOFF_SECONDS * 2 ** min(memory.failures, 16), LONGEST_BACKOFF_SECONDS)
        memory.failures += 1
        memory.again_at = max(memory.again_at, self._clock.monotonic() + pause)
        log.warning("agent %s: reserve: %s; no new one for %g s", name, why, pause)

    async def _decide(self, memory: _Agent, name: str, load: Load) -> None:
        """Ask the policy, when that is due."""
        now = self._clock.monotonic()
        if now - memory.decided_at < POLICY_SECONDS:
            return
        memory.decided_at = now
        current = self._slot()
        since = min(memory.seen_calls, default=current)
        calls = await self._store.reserves.history(name, since)
        news = sum(number - memory.seen_calls.get(slot, 0) for slot, number in calls.items())
        # Counts of other replicas, and of the slot before, may still grow for a while.
        memory.seen_calls = {slot: number for slot, number in calls.items() if slot >= current - SLOT}
        memory.policy.observe(self._clock.now(), max(news, 0))
        lead = statistics.fmean(memory.leads) if memory.leads else FIRST_LEAD_SECONDS
        decided = memory.policy.wanted(Moment(now=self._clock.now(), live=load.live, lead=lead))
        if decided.machines != memory.wanted:
            log.info("agent %s: reserve: %s", name, decided.reason)
        memory.wanted, memory.reason = decided.machines, decided.reason

    def _silent(self, machines: Sequence[Machine]) -> Collection[str]:
        """Return the idle machines that say nothing. A new leader waits until it could have heard them."""
        limit = SILENT_HEARTBEATS * self._channels.heartbeat_seconds
        now, since = self._clock.monotonic(), self._led_since
        if since is None or now - since < limit or not self._channels.hears_all:
            return ()
        found = set[str]()
        for machine in machines:
            if machine.state is not MachineState.idle or machine.seen_at is None:
                continue
            heard = self._channels.last_heard(machine.id)
            if self._clock.now() - machine.seen_at >= limit and (heard is None or now - heard > limit):
                found.add(machine.id)
        return found

    async def _retire(self, machines: Sequence[tuple[Machine, str]]) -> None:
        for machine, why in machines:
            if not self._leadership.held:
                return
            after = await self._repository.change_machine(machine.id, reserve.retired, DISPATCHER)
            # Unless a session was faster.
            if after is not None and after.state is MachineState.retired:
                log.info("machine %s of the reserve is ended: %s", machine.id, why)
                self._terminator.terminate_later(machine.id, why)

    async def _clean(self) -> None:
        """Delete what is older than it must be kept, when that is due."""
        began_at, now = self._clock.monotonic(), self._clock.now()
        if began_at - self._cleaned_at < CLEAN_SECONDS:
            return
        self._cleaned_at = began_at
        await self._store.reserves.delete_old(now - (DAYS + 1) * 86_400, now - GONE_SECONDS, CLEAN_ROWS)
