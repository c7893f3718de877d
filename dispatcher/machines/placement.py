"""One placement: makes every call to its provider, within rate limits and time limits."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.breaker import Breaker, BreakerState
from dispatcher.machines.calls import OnCall, ProviderCall, outcome_of, unobserved
from dispatcher.machines.failover import CutShort, Faulty
from dispatcher.machines.listing import Listing
from dispatcher.machines.provider import (
    Action,
    Answers,
    HasLanes,
    KeepsLogs,
    LogPart,
    MachineProvider,
    MachineSpec,
    ProviderError,
    PublishesRates,
    Rejected,
    Settles,
    StartsSeparately,
    StartsSlowly,
    Throttled,
    Unreachable,
)
from dispatcher.rate_limit import TokenBucket
from dispatcher.tasks import within

log = logging.getLogger(__name__)

T = TypeVar("T")

CREATE_SECONDS = 20.0
"""Limit on one create. Clouds that start a machine within the call take up to about ten seconds."""

CALL_SECONDS = 10.0
"""Limit on any other call; stopping has its grace on top."""

PATIENCE_SECONDS = 30.0
"""Limit on the wait for its turn of a call that has no deadline of its own."""

LEAST_CALL_SECONDS = 2.0
"""Least time for a call after its turn: with less, its answer would come too late, and whether a machine was
created would be unknown."""

LEAST_HOLD_SECONDS = 0.1
"""Least pause after a throttled call, whatever the API says."""


class Placement:
    """A provider under a name, with a token bucket per action and lane, and a circuit breaker."""

    def __init__(
        self, name: str, provider: MachineProvider, clock: Clock, on_call: OnCall = unobserved
    ) -> None:
        rates = provider.rates if isinstance(provider, PublishesRates) else {}
        self.name = name
        self.provider = provider
        self._starter = provider if isinstance(provider, StartsSeparately) else None
        self._clock = clock
        self._on_call = on_call
        self._breaker = Breaker()
        self._rates = rates
        self._buckets: dict[tuple[Action, str], TokenBucket] = {}
        """Buckets by action and lane."""

    @property
    def settling(self) -> float:
        """Seconds after a create's end from which on `None` from `get` means that there is no machine."""
        return self.provider.settling.total_seconds() if isinstance(self.provider, Settles) else 0.0

    def needs_start(self, status: MachineStatus) -> bool:
        """Return True if the machine was created, and stays so until it is started."""
        return self._starter is not None and status.state is MachineState.requested

    @property
    def breaker(self) -> BreakerState:
        return self._breaker.state

    @property
    def avoided(self) -> bool:
        """True if a start would be refused now, because the placement failed to answer the last ones."""
        return not self._breaker.admit(self._clock.monotonic())[1]

    def enter(self) -> None:
        """Ask to start a machine here.

        Raises:
            Unreachable: the placement failed to answer the last starts, and is skipped for a while.
        """
        now = self._clock.monotonic()
        self._breaker, admitted = self._breaker.admit(now)
        if not admitted:
            raise Unreachable(
                f"did not answer {self._breaker.failures} times in a row, "
                f"and is not asked for another {self._breaker.shut_until - now:.0f} s"
            )

    async def check(self) -> None:
        """Check that the provider can be asked, as far as it can tell.

        Raises:
            Unreachable: it cannot.
        """
        if isinstance(self.provider, Answers):
            try:
                await self.provider.check()
            except ProviderError as error:
                raise Unreachable(f"{self.name}: {error}") from error

    def worked(self) -> None:
        """Record that the placement answered a start, even with a refusal."""
        self._breaker = self._breaker.worked()

    def failed(self) -> None:
        """Record that the placement did not answer a start."""
        self._breaker = self._breaker.failed(self._clock.monotonic())
        if self._breaker.tripped:
            log.warning("placement %s does not answer: it is skipped for a while", self.name)

    def delay(self, machine_id: str) -> float:
        """Return the seconds until the provider could be asked to create this machine."""
        return self._bucket("create", self._lane(machine_id)).wait(self._clock.monotonic())

    async def create(
        self,
        spec: MachineSpec,
        deadline: float,
        confirm: Callable[[], Awaitable[None]],
        turn_by: float = math.inf,
    ) -> MachineStatus:
        """Create a machine as the provider does, never beyond the deadline.

        Args:
            deadline: In Unix seconds.
            confirm: Called after every wait, before the provider is asked; its exception ends the call.
            turn_by: In Unix seconds. A later turn is not waited for.
        """
        lane, provider = self._lane(spec.id), self.provider
        if not isinstance(provider, StartsSlowly):
            call = functools.partial(provider.create, spec)
            return await self._call("create", lane, call, CREATE_SECONDS, deadline, turn_by, confirm)
        limit = provider.create_seconds

        async def create() -> MachineStatus:
            answer_by = min(deadline, self._clock.now() + limit) - LEAST_CALL_SECONDS
            return await provider.create(replace(spec, answer_by=answer_by))

        return await self._call("create", lane, create, limit, deadline, turn_by, confirm)

    async def start(self, spec: MachineSpec, deadline: float) -> MachineStatus:
        """Start a created machine, never beyond the deadline (Unix seconds)."""
        lane, starter = self._lane(spec.id), self._starter
        if starter is None:
            raise AssertionError(f"placement {self.name} starts machines as it creates them")
        return await self._call("start", lane, lambda: starter.start(spec), CALL_SECONDS, deadline)

    async def get(self, machine_id: str, deadline: float | None = None) -> MachineStatus | None:
        lane = self._lane(machine_id)
        return await self._call("get", lane, lambda: self.provider.get(machine_id), CALL_SECONDS, deadline)

    async def stop(self, machine_id: str, grace: timedelta, deadline: float | None = None) -> None:
        lane = self._lane(machine_id)
        limit = CALL_SECONDS + grace.total_seconds()
        await self._call("stop", lane, lambda: self.provider.stop(machine_id, grace), limit, deadline)

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Read a log as the provider does. Not rate-limited: only the calls that make machines are.

        Raises:
            Rejected: The provider keeps no log, or cannot read it.
        """
        provider = self.provider
        if not isinstance(provider, KeepsLogs):
            raise Rejected(f"placement {self.name} keeps no log that can be read here")
        return await self._guarded(
            lambda: provider.read_log(machine_id, lines, after, ended=ended), CALL_SECONDS
        )

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Yield every machine here. The limit of a call applies to each page, not to the whole."""
        await self._turn("list", "", self._clock.now() + PATIENCE_SECONDS - LEAST_CALL_SECONDS)
        listing = Listing(self.provider.list())
        began_at, error = self._clock.now(), None
        try:
            while some := await self._guarded(listing.more, CALL_SECONDS):
                for status in some:
                    yield status
        except BaseException as raised:
            # The caller may stop early and close this generator.
            error = None if isinstance(raised, GeneratorExit) else raised
            raise
        finally:
            self._ended("list", began_at, error)
            await listing.close()

    async def _call(
        self,
        action: Action,
        lane: str,
        call: Callable[[], Awaitable[T]],
        limit: float,
        deadline: float | None,
        turn_by: float = math.inf,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Make a call in its turn, and again while it is throttled and the deadline allows."""
        if deadline is None:
            deadline = self._clock.now() + PATIENCE_SECONDS + limit
        words, waited = "", False
        while True:
            if await self._turn(action, lane, min(deadline - LEAST_CALL_SECONDS, turn_by), words):
                waited = True
                if confirm is not None:
                    await confirm()
            left = deadline - self._clock.now()
            if left <= 0:
                raise Throttled(words or "the deadline passes before its turn", LEAST_HOLD_SECONDS)
            try:
                return await self._watched(action, call, min(limit, left))
            except Unreachable as error:
                if waited and left < limit and self._clock.now() >= deadline:
                    raise CutShort(str(error)) from error
                raise
            except Throttled as error:
                words = str(error)
                bucket, seconds = self._bucket(action, lane), max(error.retry_after, LEAST_HOLD_SECONDS)
                self._buckets[action, lane] = bucket.hold(self._clock.monotonic(), seconds)

    async def _turn(self, action: Action, lane: str, turn_by: float, words: str = "") -> bool:
        """Wait for a turn until `turn_by` (Unix seconds); return True if that took a wait."""
        bucket = self._bucket(action, lane)
        longest_wait = max(0.0, turn_by - self._clock.now())
        self._buckets[action, lane], wait, taken = bucket.reserve(self._clock.monotonic(), longest_wait)
        if not taken:
            because = words or f"no more '{action}' calls are allowed"
            raise Throttled(f"{because}; the next one may be made in {wait:.1f} s", wait)
        if wait > 0:
            await self._clock.sleep(wait)
        return wait > 0

    def _bucket(self, action: Action, lane: str) -> TokenBucket:
        return self._buckets.get((action, lane)) or TokenBucket(self._rates.get(action))

    def _lane(self, machine_id: str) -> str:
        return self.provider.lane(machine_id) if isinstance(self.provider, HasLanes) else ""

    async def _watched(self, action: Action, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Make one call and report it to `on_call`."""
        began_at, error = self._clock.now(), None
        try:
            return await self._guarded(call, seconds)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._ended(action, began_at, error)

    def _ended(self, action: Action, began_at: float, error: BaseException | None) -> None:
        words = "" if error is None else str(error)
        outcome, now = outcome_of(error), self._clock.now()
        self._on_call(ProviderCall(self.name, self.provider.name, action, outcome, began_at, now, words))

    async def _guarded(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Limit a call's time, and raise nothing but `ProviderError`."""
        try:
            late = Unreachable(f"no answer within {seconds:.0f} s")
            return await within(self._clock, seconds, call(), late)
        except ProviderError:
            raise
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise Faulty("the provider cancelled its own call") from error
        except Exception as error:
            log.exception("placement %s: the provider raised an exception outside its contract", self.name)
            raise Faulty(f"unexpected {type(error).__name__}: {error}") from error
