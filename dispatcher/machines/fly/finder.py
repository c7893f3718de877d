"""Look-ups of machines at Fly: find a machine's app and its id at Fly.

The app of a new machine follows from its id and the list of apps. The list may change while the machine
lives, and two replicas may have different lists for a while: a machine that is missing in its app may exist
in another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineState
from dispatcher.machines.fly.client import FlyApi, Machine
from dispatcher.machines.fly.request import Place, filters, metadata
from dispatcher.machines.fly.status import is_machine, machine_id_of, state_of
from dispatcher.machines.provider import ProviderError, Throttled, Unreachable
from dispatcher.rate_limit import Rate, TokenBucket
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

T = TypeVar("T")

RATE = Rate(1, burst=3)
"""Rate limit of every action but "Get Machine", per app or machine (Fly's docs, "Working with the Machines
API")."""

LOOK_PATIENCE = 5.0
"""Limit on a look-up's wait for its turn, in seconds: an app's machines can be listed once a second."""

REMEMBERED = 20_000
"""Limit on the machines whose ids at Fly are remembered. Others are looked up, one per second and app."""

APPS_AT_ONCE = 25
"""Apps that are asked concurrently. All must answer within the 10 s that the fleet waits for a list's first
machine: 200 apps, a placement's limit, take as long as eight calls."""


class Finder:
    """Finds machines, first by memory and then by their metadata, within the rate limit of an app's lists."""

    def __init__(self, api: FlyApi, place: Place, clock: Clock) -> None:
        self._api = api
        self._place = place
        self._clock = clock
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._turns = dict.fromkeys(place.every_app, TokenBucket(RATE))

    def place(self, machine_id: str) -> tuple[str, str]:
        """Remember the app of a machine, and its id at Fly."""
        return self._known[machine_id]

    def remember(self, machine_id: str, app: str, machine: Machine) -> None:
        self._known[machine_id] = (app, machine["id"])
        self._known.move_to_end(machine_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    async def machines(self) -> AsyncGenerator[tuple[str, str, Machine], None]:
        """Yield the deployment's machines in all apps: app, id, and Fly's description.

        Raises:
            ProviderError: An app could not be asked. The machines of all others come first.
        """
        async with aclosing(self._of_each(self._place.every_app, self._in_app)) as answers:
            async for app, found in answers:
                for machine_id, machine in found:
                    yield app, machine_id, machine

    async def _in_app(self, app: str) -> list[tuple[str, Machine]]:
        await self._turn(app)
        found = []
        for machine in await self._api.machines(app, filters(metadata(self._place))):
            if machine_id := machine_id_of(machine, self._place):
                self.remember(machine_id, app, machine)
                found.append((machine_id, machine))
        return found

    async def look(self, machine_id: str) -> Machine | None:
        """Return Fly's view of the machine. None: no app has it.

        Raises:
            ProviderError: It was not found, and an app could not be asked.
        """
        if machine_id in self._known:
            app, at_fly = self._known[machine_id]
            if (machine := await self._api.show(app, at_fly)) is not None:
                return self.checked(machine, machine_id)
        # Most machines are where the current list has them: search the other apps last, a call each.
        home = self._place.app(machine_id)
        if (machine := await self.find(home, machine_id)) is None:
            others = [app for app in self._place.every_app if app != home]
            machine = await self._elsewhere(others, machine_id)
        else:
            self.remember(machine_id, home, machine)
        return machine

    def checked(self, machine: Machine, machine_id: str) -> Machine:
        """Return the machine in Fly's answer, after comparing its identity.

        Raises:
            Unreachable: It is another machine, so nothing is known of the requested one.
        """
        if not is_machine(machine, self._place, machine_id):
            raise Unreachable(
                f"Fly answered with machine {machine.get('name')} ({machine.get('id')}) when asked for "
                f"{self._place.name(machine_id)}"
            )
        return machine

    async def _elsewhere(self, apps: Sequence[str], machine_id: str) -> Machine | None:
        """Return the machine in one of these apps: a live one, if there is any."""
        found = None
        async with aclosing(self._of_each(apps, lambda app: self.find(app, machine_id))) as answers:
            async for app, machine in answers:
                if machine is not None:
                    self.remember(machine_id, app, machine)
                    found = machine
                    if state_of(machine) is not MachineState.gone:
                        break
        return found

    async def _of_each(
        self, apps: Sequence[str], ask: Callable[[str], Awaitable[T]]
    ) -> AsyncGenerator[tuple[str, T], None]:
        """Yield each app's answer as it arrives. At the end, raise the first error, if any."""
        gate = asyncio.Semaphore(APPS_AT_ONCE)

        async def one(app: str) -> tuple[str, T | ProviderError]:
            async with gate:
                try:
                    return app, await ask(app)
                except ProviderError as error:
                    if not isinstance(error, Throttled):
                        log.warning("Fly's app %s: %s", app, error)
                    return app, error

        tasks = [asyncio.create_task(one(app)) for app in apps]
        failed: ProviderError | None = None
        try:
            for answer in asyncio.as_completed(tasks):
                app, given = await answer
                if isinstance(given, ProviderError):
                    failed = failed or given
                else:
                    yield app, given
        finally:
            await end_tasks(*tasks)
        if failed is not None:
            raise failed

    async def find(self, app: str, machine_id: str) -> Machine | None:
        """Look the machine up by its metadata: a live one, if there is any, else the last.

        Fly documents the filter for one pair only and omits it from the API's description, so each machine of
        the answer is compared.

        Raises:
            Unreachable: The answer has only other machines, although the filter was applied.
        """
        answer = await self._listed(app, metadata(self._place, machine_id))
        found = [one for one in answer if is_machine(one, self._place, machine_id)]
        if answer and not found:
            # A server that ignores the filter has listed the whole app, which proves the absence.
            whole = await self._listed(app)
            found = [one for one in whole if is_machine(one, self._place, machine_id)]
            if not found and {one["id"] for one in answer} != {one["id"] for one in whole}:
                raise Unreachable(
                    f"Fly answered with machine {answer[0].get('name')} ({answer[0]['id']}) when app {app} "
                    f"was searched for {self._place.name(machine_id)}"
                )
        living = [one for one in found if state_of(one) is not MachineState.gone]
        return max(living or found, key=lambda one: one["created_at"], default=None)

    async def _listed(self, app: str, wanted: Mapping[str, str] | None = None) -> list[Machine]:
        """List an app's machines, destroyed ones too, in turn."""
        await self._turn(app)
        return await self._api.machines(app, filters(wanted or {}, [("include_deleted", "true")]))

    async def _turn(self, app: str) -> None:
        """Wait until the app's machines may be listed."""
        self._turns[app], wait, taken = self._turns[app].reserve(self._clock.monotonic(), LOOK_PATIENCE)
        if not taken:
            raise Throttled(f"the machines of app {app} may be listed again in {wait:.1f} s", wait)
        if wait > 0:
            await self._clock.sleep(wait)
