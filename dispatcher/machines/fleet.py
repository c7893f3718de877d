"""The fleet: gets a machine from the first placement that has one, and finds existing machines.

It never creates two machines for one id. A create whose answer is lost may have worked, so the placement is
looked up until it is certain that it has no such machine; no other placement is asked until then. The
placement is recorded before it is asked (`Place`), so a crash loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineStatus
from dispatcher.machines import failover
from dispatcher.machines.breaker import BreakerState
from dispatcher.machines.calls import OnCall, unobserved
from dispatcher.machines.failover import Abandoned, CutShort, Failure, Faulty, Unknown
from dispatcher.machines.placement import Placement
from dispatcher.machines.provider import (
    Fetches,
    KeepsEnded,
    LogPart,
    MachineProvider,
    MachineSpec,
    NoCapacity,
    Preparation,
    Prepares,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)
from dispatcher.repeated_warning import RepeatedWarning
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

Place = Callable[[str, str], Awaitable[bool]]
"""Records a placement (its name, its provider's name) before each time that it is asked for the machine.

Returns False if the machine is no longer wanted.
"""

NO_GRACE = timedelta(0)


class NoMachine(Exception):
    """No placement gave a machine.

    Attributes:
        error: The kind of failure, with the message of each placement.
        nowhere: Whether it is certain that no machine was created.
    """

    def __init__(self, error: ProviderError, nowhere: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.nowhere = nowhere


class NotWanted(Exception):
    """The machine was no longer wanted before a placement was asked. No machine was created."""


class Fleet:
    """The placements of a deployment, in their order."""

    def __init__(
        self, providers: Mapping[str, MachineProvider], clock: Clock, on_call: OnCall = unobserved
    ) -> None:
        self._placements = {
            name: Placement(name, provider, clock, on_call) for name, provider in providers.items()
        }
        self._clock = clock
        self._throttled = RepeatedWarning(
            log, "throttled: %d starts refused since the last line like this; %s"
        )

    @property
    def placements(self) -> tuple[str, ...]:
        """Names of the placements, in order."""
        return tuple(self._placements)

    @property
    def breakers(self) -> Mapping[str, BreakerState]:
        """Placement → the state of its circuit breaker."""
        return {name: placement.breaker for name, placement in self._placements.items()}

    def first(self, names: Sequence[str] = ()) -> tuple[str, str]:
        """Return the placement that `create` would ask first, and its provider's name."""
        order = self._order(names)
        placement = next((one for one in order if not one.avoided), order[0])
        return placement.name, placement.provider.name

    def ended(self, placement: str) -> Collection[str]:
        """Return the ended machines that the placement keeps, as of its last listing."""
        provider = self._at(placement).provider
        return provider.ended if isinstance(provider, KeepsEnded) else ()

    def recorded(self, placement: str, machine_ids: Iterable[str]) -> None:
        """Tell the placement that it need not keep these ended machines any longer."""
        provider = self._at(placement).provider
        if isinstance(provider, KeepsEnded):
            provider.recorded(machine_ids)

    async def fetch(self, image: str, names: Sequence[str] = ()) -> None:
        """Fetch an image to these placements; to all of the deployment's, if none are named.

        Raises:
            ProviderError: one could not fetch it.
        """
        for placement in self._order(names):
            if isinstance(placement.provider, Fetches):
                await placement.provider.fetch(image)

    async def check(self) -> None:
        """Check that a placement can be asked for machines, as far as can be known.

        Raises:
            Unreachable: none can; the text has each one's message.
        """
        checks = [asyncio.create_task(placement.check()) for placement in self._placements.values()]
        failures = list[str]()
        try:
            for answer in asyncio.as_completed(checks):
                try:
                    await answer
                except ProviderError as error:
                    failures.append(str(error))
                else:
                    return
        finally:
            await end_tasks(*checks)
        raise Unreachable("; ".join(failures))

    def settling(self, placement: str | None) -> float:
        """Return the seconds after a create's end from which on `None` from `get` is reliable."""
        known = self._placements.get(placement or "")
        return known.settling if known is not None else 0.0

    async def prepare(self, preparations: Mapping[str, Iterable[Preparation]]) -> None:
        """Prepare for machines (placement → those that will be requested). Returns at once."""
        for name, placement in self._placements.items():
            if isinstance(placement.provider, Prepares):
                await placement.provider.prepare(preparations.get(name, ()))

    async def close(self) -> None:
        """Undo what `prepare` started. Machines are not touched."""
        for placement in self._placements.values():
            if isinstance(placement.provider, Prepares):
                await placement.provider.close()

    def check_delay(self, machine_id: str, names: Sequence[str], most: float) -> None:
        """Refuse a machine for which no placement can be asked within `most` seconds.

        Raises:
            Throttled: all placements' rate limits require a longer wait.
        """
        waits = {one.name: one.delay(machine_id) for one in self._order(names) if not one.avoided}
        if not waits or min(waits.values()) <= most:
            return
        words = "; ".join(f"{name}: the next one may be made in {wait:.1f} s" for name, wait in waits.items())
        self._throttled.warn(self._clock.monotonic(), words)
        raise Throttled(words, min(waits.values()))

    async def create(
        self,
        spec: MachineSpec,
        names: Sequence[str],
        deadline: float,
        place: Place,
        max_delay: float = math.inf,
    ) -> MachineStatus:
        """Get a machine from the first of these placements that has one.

        Args:
            names: The agent's placements; all of the deployment's, if none are named.
            deadline: Unix seconds after which no placement is asked any more.
            max_delay: Longest wait for the placements' rates, in seconds.

        Raises:
            NoMachine: no placement gave one.
            NotWanted: `place` returned False.
        """
        failures: list[Failure] = []
        turn_by = self._clock.now() + max_delay
        for placement in self._order(names):
            if self._clock.now() >= deadline:
                late = Throttled("the deadline came before it could be asked", retry_after=0)
                failures.append(Failure(placement.name, late))
                break
            try:
                placement.enter()
                return await self._create_at(placement, spec, deadline, turn_by, place)
            except Throttled as error:
                self._throttled.warn(self._clock.monotonic(), f"{placement.name}: {error}")
                failures.append(Failure(placement.name, error))
            except ProviderError as error:
                log.warning("machine %s: placement %s gave none: %s", spec.id, placement.name, error)
                failures.append(Failure(placement.name, error))
            if not failover.may_go_on(failures):
                break
        raise NoMachine(failover.verdict(failures), failover.nowhere(failures))

    async def resume(
        self,
        spec: MachineSpec,
        names: Sequence[str],
        deadline: float,
        place: Place,
        at: str,
        max_delay: float = math.inf,
    ) -> MachineStatus:
        """Continue a `create` whose caller died: it may have worked.

        Args:
            at: The placement that was asked last, or was about to be.

        Raises:
            NoMachine: no placement gave one; `Abandoned`, if it is not known whether there is one already.
            NotWanted: `place` returned False.
        """
        lost = Unreachable("the dispatcher that asked for the machine is gone")
        try:
            found = await self._look_up(self._at(at), spec.at(at), deadline, place, lost)
        except ProviderError as error:
            raise NoMachine(Abandoned(f"{at}: {error}"), nowhere=False) from error
        if found is not None:
            return found
        return await self.create(spec, names, deadline, place, max_delay)

    async def get(self, placement: str | None, machine_id: str) -> MachineStatus | None:
        """Return the placement's view of the machine. None also if no placement was asked for it yet."""
        return None if placement is None else await self._at(placement).get(machine_id)

    async def stop(self, placement: str | None, machine_id: str, grace: timedelta) -> None:
        """Stop the machine at its placement. Does nothing if no placement was asked for it yet."""
        if placement is not None:
            await self._at(placement).stop(machine_id, grace)

    async def read_log(
        self, placement: str, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Return the last lines that the machine printed; None if its placement has none."""
        return await self._at(placement).read_log(machine_id, lines, after, ended=ended)

    def list(self, placement: str) -> AsyncIterator[MachineStatus]:
        """Yield every machine of this deployment at the placement."""
        return self._at(placement).list()

    async def _create_at(
        self, placement: Placement, spec: MachineSpec, deadline: float, turn_by: float, place: Place
    ) -> MachineStatus:
        """Ask one placement, again after a lost answer. Any error but `Unknown` means that it has
        no machine."""

        spec = spec.at(placement.name)

        async def confirm() -> None:
            if not await place(placement.name, placement.provider.name):
                raise NotWanted

        for attempt in range(failover.ATTEMPTS):
            await confirm()
            try:
                # `confirm` runs again after every wait, which may take seconds for a throttled call: another
                # dispatcher may have taken the start over by then, and have a machine.
                status = await placement.create(spec, deadline, confirm, turn_by)
            except Unreachable as error:
                if not isinstance(error, CutShort):
                    placement.failed()
                found = await self._look_up(placement, spec, deadline, place, error)
                if found is not None:
                    placement.worked()
                    return found
                wait = failover.pause(attempt)
                last = attempt + 1 == failover.ATTEMPTS or isinstance(error, Faulty)
                if last or self._clock.now() + wait >= deadline:
                    raise
                await self._clock.sleep(wait)
            except ProviderError:
                placement.worked()
                raise
            else:
                placement.worked()
                return status
        raise AssertionError("the last attempt returns or raises")

    async def _look_up(
        self, placement: Placement, spec: MachineSpec, deadline: float, place: Place, lost: Unreachable
    ) -> MachineStatus | None:
        """Return the machine of a create without an answer, or None once it is certain that there is none.

        A machine that was created but not started is started, if it is still wanted.

        Raises:
            Unknown: the deadline came first, or the placement does not answer.
        """
        settled = self._clock.now() + placement.settling
        unanswered = attempt = 0
        while True:
            asked = self._clock.now()
            try:
                status = await placement.get(spec.id, deadline)
                if status is not None and placement.needs_start(status):
                    return await self._start(placement, spec, status, deadline, place)
            except ProviderError as error:
                unanswered += 1
                if unanswered >= failover.LOOKUPS and asked >= settled:
                    return await self._forget(placement, spec.id, deadline, error)
            else:
                unanswered = 0
                if status is not None or asked >= settled:
                    return status
            now = self._clock.now()
            wait = failover.pause(attempt)
            attempt += 1
            if now < settled:
                wait = min(wait, settled - now)
            if now + wait >= deadline:
                raise Unknown(f"{lost}; whether the machine was created could not be found out") from lost
            await self._clock.sleep(wait)

    async def _start(
        self, placement: Placement, spec: MachineSpec, status: MachineStatus, deadline: float, place: Place
    ) -> MachineStatus | None:
        """Start a created machine and return its status; None if it could not be started and no longer
        exists."""
        if not await place(placement.name, placement.provider.name):
            # The terminator of its session stops it.
            return status
        try:
            return await placement.start(spec, deadline)
        except (NoCapacity, QuotaReached, Rejected) as error:
            log.warning("machine %s: left at %s, and cannot start: %s", status.id, placement.name, error)
            return None

    async def _forget(
        self, placement: Placement, machine_id: str, deadline: float, last: ProviderError
    ) -> None:
        """Stop a machine that cannot be seen: once that has worked, there is none."""
        try:
            await placement.stop(machine_id, NO_GRACE, deadline)
        except ProviderError as error:
            raise Unknown(f"look-up: {last}; stop: {error}") from error

    def _order(self, names: Sequence[str]) -> list[Placement]:
        return [self._at(name) for name in names] if names else list(self._placements.values())

    def _at(self, name: str) -> Placement:
        try:
            return self._placements[name]
        except KeyError:
            known = ", ".join(self._placements)
            raise Unreachable(f"'{name}' is not a placement of this deployment; it has: {known}") from None
