"""Gauges that are computed at a scrape: live sessions and machines, counted by the store.

A gauge that a process keeps is wrong after a restart and with a second replica; the rows never are. So every
replica shows the whole deployment's sessions and machines, to be aggregated with `max`, and its own channels
and circuit breakers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain.model import LIVE, MachineState
from dispatcher.machines.breaker import BreakerState
from dispatcher.store.queries import Counts
from dispatcher.telemetry.metrics import PREFIX

log = logging.getLogger(__name__)

CACHE_SECONDS = 5.0
"""Time that a count is cached, so that several scrapers cost one query; an interval of 15 s is common."""


class Counting(Protocol):
    async def counts(self) -> Counts:
        """Return the counts of live sessions and machines.

        Raises:
            SQLAlchemyError: the store does not answer.
        """
        ...


class Channels(Protocol):
    @property
    def connected(self) -> int:
        """Number of machines that are connected to this replica."""
        ...


class Fleet(Protocol):
    @property
    def breakers(self) -> Mapping[str, BreakerState]:
        """Placement → the state of its circuit breaker in this replica."""
        ...


class Scrape(Collector):
    """The gauges of one dispatcher, and its answer to a scrape."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        agents: Iterable[str],
        store: Counting,
        channels: Channels,
        fleet: Fleet,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._agents = tuple(agents)
        self._store = store
        self._channels = channels
        self._fleet = fleet
        self._clock = clock
        self._counts: Counts | None = None
        self._counted_at = float("-inf")
        self._counting = asyncio.Lock()
        registry.register(self)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, in the format that the scraper accepts, and its media type."""
        async with self._counting:
            if self._clock.monotonic() - self._counted_at >= CACHE_SECONDS:
                await self._count()
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the metrics without collecting them: nothing is known before the first scrape."""
        yield from self._families(Counts())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = self._counts is not None
        yield GaugeMetricFamily(f"{PREFIX}_store_up", "1 if the store answered the last count.", int(up))
        yield from self._families(self._counts or Counts(), known=up)

    async def _count(self) -> None:
        try:
            self._counts = await self._store.counts()
        except SQLAlchemyError:
            # A stale count would look like a quiet deployment; a missing one can trigger an alert.
            log.debug("the store did not answer a scrape", exc_info=True)
            self._counts = None
        self._counted_at = self._clock.monotonic()

    def _families(self, counts: Counts, *, known: bool = False) -> Iterator[GaugeMetricFamily]:
        sessions = GaugeMetricFamily(f"{PREFIX}_sessions", "Live sessions.", labels=("agent", "state"))
        machines = GaugeMetricFamily(
            f"{PREFIX}_machines", "Machines that are not known to be gone.", labels=("placement", "state")
        )
        if known:
            _fill(sessions, counts.sessions, self._agents, LIVE)
            alive = [state for state in MachineState if state is not MachineState.gone]
            _fill(machines, counts.machines, self._fleet.breakers, alive)
        breakers = GaugeMetricFamily(
            f"{PREFIX}_placement_breaker",
            "1 for the state of a placement's circuit breaker.",
            labels=("placement", "state"),
        )
        for placement, is_in in self._fleet.breakers.items():
            for state in get_args(BreakerState):
                breakers.add_metric((placement, state), int(state == is_in))
        channels = GaugeMetricFamily(
            f"{PREFIX}_channels", "Machines whose channel is open, to this replica.", self._channels.connected
        )
        yield from (sessions, machines, breakers, channels)


def _fill(
    family: GaugeMetricFamily,
    counted: Mapping[tuple[str, str], int],
    names: Iterable[str],
    states: Iterable[str],
) -> None:
    """Add a zero for each missing label value: a series that comes and goes cannot be compared with
    its past."""
    states = tuple(states)
    zeros = {(name, str(state)): 0 for name in names for state in states}
    for labels, number in (zeros | {(name, str(state)): n for (name, state), n in counted.items()}).items():
        family.add_metric(labels, number)
