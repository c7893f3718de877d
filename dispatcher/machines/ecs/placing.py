"""RunTask for a machine: through zones and kinds of capacity, and through lost answers, to one task."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dispatcher.clock import Clock
from dispatcher.machines.ecs.client import EcsApi, TokenTaken
from dispatcher.machines.ecs.finder import Finder
from dispatcher.machines.ecs.request import Place, run_task
from dispatcher.machines.provider import MachineSpec, NoCapacity, Rejected, Unreachable

if TYPE_CHECKING:
    from types_aiobotocore_ecs.type_defs import RunTaskRequestTypeDef, TaskTypeDef

log = logging.getLogger(__name__)

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

    async def task(self, spec: MachineSpec, attempt: int, without: str = "") -> TaskTypeDef:
        """Return the machine's task of an attempt, which there is once however often it is asked for.

        Args:
            without: A subnet that another one is preferred to.

        Raises:
            NoCapacity: No zone has any, of no kind.
            ProviderError: As the API says.
        """
        full: NoCapacity | None = None
        for kind, subnets in self._place.offers(without):
            request = run_task(self._place, spec, attempt, kind, subnets)
            try:
                task = await self._run(request)
            except NoCapacity as error:
                log.info("machine %s: no %s in %s: %s", spec.id, kind, ", ".join(subnets), error)
                full = error
                continue
            except TokenTaken as taken:
                if not taken.arns and full is not None:
                    # The token went with the offer that had no capacity.
                    raise full from taken
                return await self._named(spec.id, taken)
            return self._finder.learned(spec.id, task)
        raise full or NoCapacity("no subnet is left to ask for")

    async def _run(self, request: RunTaskRequestTypeDef) -> TaskTypeDef:
        """Make a call, and again if its answer is lost."""
        pause = PAUSE_SECONDS
        for _ in range(LOST_ANSWERS - 1):
            try:
                return await self._api.run_task(request)
            except Unreachable as error:
                log.debug("RunTask is repeated with its token: %s", error)
            await self._clock.sleep(pause)
            pause *= 2
        return await self._api.run_task(request)

    async def _named(self, machine_id: str, taken: TokenTaken) -> TaskTypeDef:
        """Return the task that has the machine's token: an earlier create asked with other parameters."""
        if not taken.arns:
            raise Unreachable(f"the machine has a task, and ECS does not say which: {taken}") from taken
        arn = taken.arns[0]
        task = await self._finder.describe(arn, machine_id)
        if task is None:
            # It is new: nothing but its name is known yet.
            return self._finder.learned(
                machine_id, {"taskArn": arn, "startedBy": self._place.owner(machine_id), "lastStatus": ""}
            )
        if task.get("startedBy") != self._place.owner(machine_id):
            raise Rejected(
                f"the token of machine {machine_id} is taken by {arn}, which is another's"
            ) from taken
        return self._finder.learned(machine_id, task)
