"""RunTask for a machine: through zones and kinds of capacity, and through lost answers, to one task."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from dispatcher.clock import Clock
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.connection import TokenTaken
from dispatcher.machines.ecs.finder import Finder
from dispatcher.machines.ecs.offers import Offers
from dispatcher.machines.ecs.request import Place, run_task
from dispatcher.machines.provider import (
    MachineSpec,
    NoCapacity,
    ProviderError,
    Rejected,
    Throttled,
    Unreachable,
)
from dispatcher.rate_limit import Rate, TokenBucket

if TYPE_CHECKING:
    from types_aiobotocore_ecs.type_defs import RunTaskRequestTypeDef, TaskTypeDef

log = logging.getLogger(__name__)

RUN_RATE = Rate(20, burst=80)
"""Rate of RunTask: Fargate launches 20 tasks a second, and 100 at once. RunTask and StopTask share a bucket
of 40 a second and 100 at once ("Cluster resource modify actions" of the ECS API reference)."""

TURN_SECONDS = 6.0
"""Limit on a call's wait for its turn. The fleet waits longer, and checks then that the machine is wanted."""

LOST_ANSWERS = 3
"""Calls of one RunTask whose answers are lost: with its client token it is the same call."""

PAUSE_SECONDS = 0.5
"""Before a call whose answer was lost is made again; twice as long each time."""


class Placing:
    """Asks ECS for tasks."""

    def __init__(self, api: EcsApi, place: Place, clock: Clock, finder: Finder) -> None:
        self._api = api
        self._place = place
        self._clock = clock
        self._finder = finder
        self._offers = Offers(place, clock)
        self._turns = TokenBucket(RUN_RATE)

    async def task(self, spec: MachineSpec, attempt: int, until: float, without: str = "") -> TaskTypeDef:
        """Return the machine's task of an attempt, which there is once however often it is asked for.

        Args:
            until: Unix seconds after which no further call is made.
            without: A subnet that another one is preferred to.

        Raises:
            NoCapacity: No zone has any, of no kind.
            ProviderError: As the API says.
        """
        full: NoCapacity | None = None
        for offer in self._offers.order(without):
            if full is not None and self._clock.now() >= until:
                raise NoCapacity(f"{full}; no time is left to ask in other zones") from full
            try:
                request = run_task(self._place, spec, attempt, *offer)
                task = await self._run(request, until, has_turn=attempt == 0 and full is None)
            except NoCapacity as error:
                kind, subnets = offer
                log.info("machine %s: no %s in %s: %s", spec.id, kind, ", ".join(subnets), error)
                self._offers.full(offer)
                full = error
                continue
            except TokenTaken as taken:
                if not taken.arns and full is not None:
                    # The token went with the offer that had no capacity.
                    raise full from taken
                return await self._named(spec.id, taken)
            self._offers.has_capacity(offer)
            return self._finder.learned(spec.id, task)
        raise full or NoCapacity("no subnet is left to ask for")

    async def _run(self, request: RunTaskRequestTypeDef, until: float, *, has_turn: bool) -> TaskTypeDef:
        """Make a call, and again if its answer is lost.

        Args:
            has_turn: The fleet gave a turn of the rate limit for the first call.

        Raises:
            Unreachable: An answer was lost. No refusal of a later call tells what the lost one did.
        """
        try:
            return await self._call(request, until, has_turn=has_turn)
        except Unreachable as error:
            lost = error
        pause = PAUSE_SECONDS
        for _ in range(LOST_ANSWERS - 1):
            if self._clock.now() + pause >= until:
                break
            await self._clock.sleep(pause)
            pause *= 2
            try:
                return await self._call(request, until)
            except (Unreachable, Throttled) as error:
                log.debug("RunTask is repeated with its token: %s", error)
            except TokenTaken:
                raise
            except ProviderError as error:
                raise Unreachable(f"{lost}; then: {error}") from error
        raise lost

    async def _call(
        self, request: RunTaskRequestTypeDef, until: float, *, has_turn: bool = False
    ) -> TaskTypeDef:
        """Make a call in its turn, which is waited for unless the caller has it."""
        longest_wait = math.inf if has_turn else min(TURN_SECONDS, max(0.0, until - self._clock.now()))
        self._turns, wait, taken = self._turns.reserve(self._clock.monotonic(), longest_wait)
        if not taken:
            raise Throttled(f"ECS may be asked for tasks again in {wait:.1f} s", wait)
        if wait > 0 and not has_turn:
            await self._clock.sleep(wait)
        try:
            return await self._api.run_task(request)
        except Throttled as throttled:
            self._turns = self._turns.hold(self._clock.monotonic(), throttled.retry_after)
            raise

    async def _named(self, machine_id: str, taken: TokenTaken) -> TaskTypeDef:
        """Return the task that has the machine's token: an earlier create asked with other parameters."""
        if not taken.arns:
            raise Unreachable(f"the machine has a task, and ECS does not say which: {taken}") from taken
        arn, owner = taken.arns[0], self._place.owner(machine_id)
        # If ECS does not show it, nothing but its name is known yet.
        task: TaskTypeDef = {"taskArn": arn, "startedBy": owner, "lastStatus": ""}
        try:
            task = await self._api.describe(arn) or task
        except ProviderError as error:
            log.debug("machine %s: its task %s could not be looked at: %s", machine_id, arn, error)
        if (started_by := task.get("startedBy")) != owner:
            raise Rejected(f"the client token of {owner} is that of task {arn}, which is {started_by}'s")
        return self._finder.learned(machine_id, task)
