"""Which machine is which at Fly: its app follows from its id, and what Fly calls it has to be learnt."""

from __future__ import annotations

from collections import OrderedDict

from dispatcher.clock import Clock
from dispatcher.machines.bucket import Bucket
from dispatcher.machines.fly_api import FlyApi, Machine
from dispatcher.machines.fly_body import Place, filters, metadata
from dispatcher.machines.fly_status import belongs, machine_id_of, state_of
from dispatcher.machines.provider import MachineState, Rate, Throttled

RATE = Rate(1, burst=3)
"""Of every action but "Get Machine", per app or machine: Fly's documentation, "Working with the Machines
API"."""

LOOK_PATIENCE = 5.0
"""How long a look-up waits for its turn, in seconds: an app's machines may be listed once a second."""

REMEMBERED = 20_000
"""Machines whose ids at Fly are remembered. Those of others are looked up, at one in a second and app."""


class Finder:
    """Finds machines, by what is remembered and else by their metadata, within the limit of an app's
    lists."""

    def __init__(self, api: FlyApi, place: Place, clock: Clock) -> None:
        self._api = api
        self._place = place
        self._clock = clock
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._turns = dict.fromkeys(place.apps, Bucket(RATE))

    def place(self, machine_id: str) -> tuple[str, str]:
        """The app of a machine that was found, and its id at Fly."""
        return self._known[machine_id]

    def remember(self, machine_id: str, app: str, machine: Machine) -> None:
        self._known[machine_id] = (app, machine["id"])
        self._known.move_to_end(machine_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    async def machines(self, app: str) -> list[tuple[str, Machine]]:
        """The deployment's machines in an app, by their ids."""
        await self._turn(app)
        found = []
        for machine in await self._api.machines(app, filters(metadata(self._place))):
            machine_id = machine_id_of(machine)
            if machine_id and belongs(machine, self._place.deployment):
                self.remember(machine_id, app, machine)
                found.append((machine_id, machine))
        return found

    async def look(self, machine_id: str) -> Machine | None:
        """What Fly knows of the machine."""
        if machine_id in self._known:
            app, at_fly = self._known[machine_id]
            if (machine := await self._api.show(app, at_fly)) is not None:
                return machine
        app = self._place.app(machine_id)
        machine = await self.find(app, machine_id)
        if machine is not None:
            self.remember(machine_id, app, machine)
        return machine

    async def find(self, app: str, machine_id: str) -> Machine | None:
        """Ask for the machine by its metadata: one that lives, if any does, else the one that lived last."""
        await self._turn(app)
        wanted = filters(metadata(self._place, machine_id), [("include_deleted", "true")])
        found = [one for one in await self._api.machines(app, wanted) if belongs(one, self._place.deployment)]
        living = [one for one in found if state_of(one) is not MachineState.gone]
        return max(living or found, key=lambda one: one["created_at"], default=None)

    async def _turn(self, app: str) -> None:
        """Wait until the app's machines may be listed."""
        self._turns[app], wait, taken = self._turns[app].reserve(self._clock.now(), LOOK_PATIENCE)
        if not taken:
            raise Throttled(f"the machines of app {app} may be listed again in {wait:.1f} s", wait)
        if wait > 0:
            await self._clock.sleep(wait)
