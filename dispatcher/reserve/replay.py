"""A reserve on a virtual clock: arrivals go through a policy, and every machine's time is counted.

The model is the one that `erlang` computes:

- A session claims the machine that has waited longest, at the instant at which it arrives; it waits 0 s.
- Without a waiting machine the session is a miss: it starts a machine of its own, and waits its whole lead
  time. It never takes one that the reserve is starting, and a miss takes nothing from the reserve.
- A claim orders the replacement at once, while waiting and starting machines are fewer than wanted. Each tick
  orders what is missing besides.
- Waiting machines in excess of what is wanted are terminated on a tick, the oldest first; those that start
  are let finish.
- A machine is idle from ready to its claim or termination. What still waits at the end is idle until then.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dispatcher.reserve.policy import TICK, Moment, Policy

MONTH = 30 * 86_400.0
"""Seconds of a month in costs, as in the plans of stacks."""


@dataclass
class Replayed:
    """Counts of one replay, over the part that is measured."""

    sessions: int = 0
    hits: int = 0
    idle_seconds: float = 0.0
    started: int = 0
    """Machines ordered for the reserve."""
    terminated: int = 0
    """Machines that waited and no session took."""
    waits: array[float] = field(default_factory=lambda: array("d"))
    """Seconds that each missed session waited."""
    seconds: float = 0.0
    """Length of the part that is measured."""

    @property
    def hit_rate(self) -> float:
        """Return the share of sessions that found a waiting machine; 1 without sessions."""
        return self.hits / self.sessions if self.sessions else 1.0

    @property
    def idle_per_session(self) -> float:
        """Return idle seconds per session; without sessions all of them."""
        return self.idle_seconds / max(self.sessions, 1)

    def cost(self, price: float, lead: float) -> float:
        """Return USD for idle machines, and for starts that no session took.

        Args:
            price: USD per machine-second.
            lead: Mean lead time in seconds.
        """
        return (self.idle_seconds + self.terminated * lead) * price

    def monthly_cost(self, price: float, lead: float) -> float:
        """Return the cost in USD, brought to a month; 0 where nothing was measured."""
        return self.cost(price, lead) * MONTH / self.seconds if self.seconds else 0.0

    def wait(self, share: float) -> float:
        """Return the wait that this share of the sessions does not exceed, in seconds."""
        place = share * self.sessions - self.hits
        if place <= 0 or not self.waits:
            return 0.0
        waits = sorted(self.waits)
        return waits[min(int(place), len(waits) - 1)]


@dataclass(frozen=True)
class Sample:
    """The reserve at a tick, for the drawing."""

    at: float
    calls: int
    wanted: int
    ready: int
    misses: int


def replay(
    times: Sequence[float],
    policy: Policy,
    leads: Sequence[float],
    *,
    begin: float,
    end: float,
    measured_from: float | None = None,
    tick: float = TICK,
    session_seconds: float = 180.0,
    price_per_second: float = 0.0,
    on_sample: Callable[[Sample], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Replayed:
    """Return what a policy gives on these arrivals.

    Args:
        times: Arrivals in seconds since 1970, ascending.
        leads: Lead times in seconds, taken in turn.
        begin: First tick.
        end: End of the replay.
        measured_from: Sessions and machine time before it do not count.
        tick: Seconds between decisions.
        session_seconds: Length of a session, for the number of live ones.
        price_per_second: USD of a waiting machine, for budgets.
        on_sample: Called at each tick that is measured.
        on_progress: Called with the share that is done, some hundred times.
    """
    measured = begin if measured_from is None else measured_from
    found = Replayed(seconds=end - measured)
    waiting: deque[float] = deque()
    starting: list[float] = []
    mean_lead = sum(leads) / len(leads)
    one_lead = leads[0] if len(set(leads)) == 1 else None
    turn = 0
    size = 0
    idle = 0.0
    hits = started = terminated = counted = 0
    index, over = bisect_left(times, begin), 0
    total = len(times)
    month = int(begin // MONTH)
    month_idle = 0.0
    now = begin
    ticks = 0
    every = max(int((end - begin) / tick / 100), 1)
    heappush, heappop, popleft, append = heapq.heappush, heapq.heappop, waiting.popleft, waiting.append
    previous = index
    while now < end:
        while starting and starting[0] <= now:
            append(heappop(starting))
        policy.observe(now, index - previous)
        previous = index
        while over < index and times[over] <= now - session_seconds:
            over += 1
        if price_per_second:
            if int(now // MONTH) != month:
                month, month_idle = int(now // MONTH), 0.0
            month_idle += len(waiting) * tick
        wanted = policy.wanted(
            Moment(now, index - over, mean_lead, month_idle * price_per_second, now % MONTH / MONTH)
        )
        size = wanted.machines
        while len(waiting) > size:
            since = popleft()
            if now > measured:
                idle += now - max(since, measured)
                terminated += 1
        for _ in range(size - len(waiting) - len(starting)):
            turn += 1
            heappush(starting, now + (one_lead if one_lead is not None else leads[turn % len(leads)]))
            started += now >= measured
        at_tick, ready, missed, first = now, len(waiting), len(found.waits), index
        now = min(now + tick, end)
        ticks += 1
        if on_progress and not ticks % every:
            on_progress((now - begin) / (end - begin))
        while index < total:
            at = times[index]
            if at >= now:
                break
            index += 1
            while starting and starting[0] <= at:
                append(heappop(starting))
            if at >= measured:
                counted += 1
            if waiting:
                since = popleft()
                if at >= measured:
                    hits += 1
                    idle += at - (since if since > measured else measured)
                if len(waiting) + len(starting) < size:
                    turn += 1
                    heappush(starting, at + (one_lead if one_lead is not None else leads[turn % len(leads)]))
                    started += at >= measured
            elif at >= measured:
                turn += 1
                found.waits.append(one_lead if one_lead is not None else leads[turn % len(leads)])
        if on_sample and at_tick >= measured:
            on_sample(Sample(at_tick, index - first, size, ready, len(found.waits) - missed))
    for since in (*waiting, *(one for one in starting if one < end)):
        idle += end - max(since, measured)
    found.sessions, found.hits, found.idle_seconds = counted, hits, idle
    found.started, found.terminated = started, terminated
    return found
