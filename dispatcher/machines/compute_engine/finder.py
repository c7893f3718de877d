"""Look-ups of machines at Compute Engine: which zone has a machine.

Names are unique in a zone, so a machine is looked up by its name in each. A machine that two zones have,
after a race of two dispatchers, stays in the one that created it first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineState
from dispatcher.machines.compute_engine.client import ComputeApi, Instance
from dispatcher.machines.compute_engine.request import DEPLOYMENT_LABEL, Place
from dispatcher.machines.compute_engine.status import is_machine, machine_id_of, state_of
from dispatcher.machines.provider import ProviderError, Unreachable
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

REMEMBERED = 20_000
"""Limit on the machines whose zones are remembered. Others are looked up in every zone."""

Found = tuple[str, Instance]
"""A zone, and an instance in it."""


class Finder:
    """Finds machines, first in the zone that is remembered and then in all."""

    def __init__(self, api: ComputeApi, place: Place, clock: Clock, settling: float) -> None:
        self._api = api
        self._place = place
        self._clock = clock
        self._settling = settling
        self._known: OrderedDict[str, str] = OrderedDict()
        """Machine → its zone."""
        self._given: OrderedDict[str, float] = OrderedDict()
        """Machine → monotonic time at which Compute Engine took its creation."""

    def remember(self, machine_id: str, zone: str) -> None:
        self._known[machine_id] = zone
        self._known.move_to_end(machine_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def given(self, machine_id: str, zone: str) -> None:
        """Note that a zone has taken the machine's creation, and may not show it yet."""
        self.remember(machine_id, zone)
        self._given[machine_id] = self._clock.monotonic()
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)

    def failed(self, machine_id: str) -> None:
        """Note that the zone could not create the machine."""
        self._known.pop(machine_id, None)
        self._given.pop(machine_id, None)

    def zone_of_new(self, machine_id: str) -> str | None:
        """Return the zone that took the machine's creation so lately that it may not show it yet."""
        at = self._given.get(machine_id)
        is_new = at is not None and self._clock.monotonic() < at + self._settling
        return self._known.get(machine_id) if is_new else None

    async def look(self, machine_id: str) -> Found | None:
        """Return the machine's zone and VM: one that is not gone, if there is any.

        Raises:
            ProviderError: It was not found, and a zone could not be asked.
        """
        zone = self._known.get(machine_id)
        if zone is not None and (instance := await self.show(zone, machine_id)) is not None:
            return zone, instance
        every = await self.every(machine_id)
        return first(every) if every else None

    async def every(self, machine_id: str) -> list[Found]:
        """Return each zone that has the machine, with its VM.

        Raises:
            ProviderError: No zone has a VM that is not gone, and one could not be asked.
        """
        zones = self._place.every_zone
        answers = await asyncio.gather(
            *(self.show(zone, machine_id) for zone in zones), return_exceptions=True
        )
        found = [
            (zone, answer)
            for zone, answer in zip(zones, answers, strict=True)
            if answer is not None and not isinstance(answer, BaseException)
        ]
        failed = next((answer for answer in answers if isinstance(answer, BaseException)), None)
        if failed is not None and all(state_of(one) is MachineState.gone for _, one in found):
            raise failed
        if found:
            self.remember(machine_id, first(found)[0])
        return found

    async def show(self, zone: str, machine_id: str) -> Instance | None:
        """Return the machine's VM in a zone; None if there is none.

        Raises:
            Unreachable: Compute Engine shows another machine, so nothing is known of this one.
        """
        name = self._place.name(machine_id)
        instance = await self._api.show(zone, name)
        if instance is not None and not is_machine(instance, self._place, machine_id):
            raise Unreachable(
                f"Compute Engine showed instance {instance.get('name')} when asked for {name} in {zone}"
            )
        return instance

    async def machines(self) -> AsyncGenerator[tuple[str, str, Instance], None]:
        """Yield the deployment's VMs: machine, zone, and Compute Engine's description.

        Raises:
            ProviderError: A zone could not be asked. The machines of all others come first.
        """
        failed: ProviderError | None = None
        lists = [asyncio.create_task(self._in_zone(zone)) for zone in self._place.every_zone]
        try:
            for answer in asyncio.as_completed(lists):
                zone, found, error = await answer
                for machine_id, instance in found:
                    yield machine_id, zone, instance
                failed = failed or error
        finally:
            await end_tasks(*lists)
        if failed is not None:
            raise failed

    async def _in_zone(self, zone: str) -> tuple[str, list[tuple[str, Instance]], ProviderError | None]:
        """Return a zone with the machines in it, and the error that cut them short."""
        found: list[tuple[str, Instance]] = []
        try:
            async with aclosing(self._api.pages(zone, {DEPLOYMENT_LABEL: self._place.deployment})) as pages:
                async for page in pages:
                    for instance in page:
                        if machine_id := machine_id_of(instance, self._place):
                            found.append((machine_id, instance))
        except ProviderError as error:
            log.warning("the machines in %s could not be listed: %s", zone, error)
            return zone, found, error
        return zone, found, None


def first(found: Iterable[Found]) -> Found:
    """Return the machine among the VMs of one name: the first that was created and is not gone, else the
    last."""
    every = sorted(found, key=lambda one: _created(one[1]))
    living = [one for one in every if state_of(one[1]) is not MachineState.gone]
    return living[0] if living else every[-1]


def _created(instance: Instance) -> float:
    try:
        return datetime.fromisoformat(instance.get("creationTimestamp", "")).timestamp()
    except ValueError:
        return 0.0
