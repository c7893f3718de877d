"""`FakeFly`: an organisation, and a call's way through its tokens, rates, faults and the description."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dispatcher.clock import Clock, SystemClock
from tests.fly import address_calls, app_calls, machine_calls, platform_calls, secret_calls, volume_calls
from tests.fly.faults import Fault, Faults
from tests.fly.machines import Machine
from tests.fly.processes import Process, Scripted, Start
from tests.fly.rates import Limits
from tests.fly.spec import IllFormed, Operation, spec
from tests.fly.wire import Answer, Call, Dropped, Refusal

Handler = Callable[["FakeFly", Call], Awaitable[Answer]]

KINDS = (app_calls, machine_calls, secret_calls, address_calls, volume_calls, platform_calls)
"""Modules with `HANDLERS`: operation id → handler."""

Boot = Literal["well", "fails", "lacks image", "never"]
"""A machine's boot: it runs; it cannot be started (state `failed`), here for want of its image; or nothing
comes of it."""

ORG = "tests"


@dataclass
class App:
    """An app: machines, and secrets that all of them see as variables."""

    name: str
    org: str = ORG
    machines: dict[str, Machine] = field(default_factory=dict)
    """Every one that ever was, by its id."""
    secrets: dict[str, str] = field(default_factory=dict)
    secrets_version: int = 0
    network: str = "default"
    ips: list[dict[str, Any]] = field(default_factory=list)
    certificates: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Grant:
    """The rights of a token: everything in the organisation, or all that concerns one app."""

    app: str | None = None
    expires_at: float = float("inf")


@dataclass
class Ordered:
    """A call that was made."""

    operation: str
    app: str
    at: float
    status: int = 0
    """0: none was given."""


class FakeFly:
    """One organisation at Fly.

    Attributes:
        start: Runs what a machine is to run.
        room: Region → machines that have room there; those that are not named have room for all.
        images: Those that the registry has; None: any.
        taken: Names of apps that other organisations have.
        passes: Whether a health check of a machine passes, by its name.
        latency: Seconds before every answer.
        prepare_seconds: From a create until a machine can boot: pulling its image and building its disk.
        list_lag_seconds: How long a new machine is not listed yet.
        filters: False: it ignores a list's filters by metadata. They are in Fly's documentation, and not in
            the description.
        mixed_up: Machine's name → name of the machine that is shown in its place.
        calls: Every call that had a good token.
        violations: What was sent or answered and the description does not know: there must be none.
    """

    def __init__(
        self, clock: Clock | None = None, *, start: Start = Scripted, limits: Limits | None = None
    ) -> None:
        self.clock = clock or SystemClock()
        self.start: Callable[..., Process] = start
        self.limits = limits or Limits()
        self.faults = Faults()
        self.apps: dict[str, App] = {}
        self.tokens: dict[str, Grant] = {}
        self.room: dict[str, int] = {}
        self.images: set[str] | None = None
        self.machine_limit: int | None = None
        self.org = ORG
        self.taken: set[str] = set()
        self.passes: Callable[[Machine, str], bool] = lambda machine, _check: machine.runs
        self.latency = 0.0
        self.prepare_seconds = 0.2
        self.boot_seconds = 0.1
        self.suspend_seconds = 0.3
        self.resume_seconds = 0.2
        self.destroy_seconds = 0.05
        self.list_lag_seconds = 0.0
        self.filters = True
        self.mixed_up: dict[str, str] = {}
        self.calls: list[Ordered] = []
        self.violations: list[str] = []
        self._boots: dict[str, deque[Boot]] = defaultdict(deque)
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Handler] = {}
        for kind in KINDS:
            self._handlers |= kind.HANDLERS

    # For tests.

    def app(self, name: str) -> App:
        """A new app."""
        self.apps[name] = App(name)
        return self.apps[name]

    def token(self, *apps: str, seconds: float = float("inf")) -> str:
        """A deploy token of each of these apps, joined as Fly joins them; of none, the organisation's."""
        made = []
        for app in apps or (None,):
            token = f"fm2_{self.new_id()}"
            self.tokens[token] = Grant(app, self.clock.now() + seconds)
            made.append(token)
        return ",".join(made)

    def boots(self, *fates: Boot, machine: str = "") -> None:
        """Decide the next boots; those of one machine, by its name, or of any."""
        self._boots[machine].extend(fates)

    def living(self) -> list[Machine]:
        """The machines that are not destroyed."""
        return [one for app in self.apps.values() for one in app.machines.values() if not one.gone]

    def running(self) -> list[str]:
        """The names of the machines whose process runs."""
        return [machine.name for machine in self.living() if machine.runs]

    def count(self, operation: str, status: int | None = None) -> int:
        """Count its calls."""
        return sum(one.operation == operation and status in (None, one.status) for one in self.calls)

    async def close(self) -> None:
        """End what goes on."""
        for machine in self.living():
            machine.destroy(force=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # For machines and handlers.

    def new_id(self) -> str:
        return f"{next(self._numbers) * 0x9E3779B97F4A7C15 % 2**56:014x}"

    def new_version(self) -> str:
        return f"01{next(self._numbers):024X}"

    def next_boot(self, machine: str) -> Boot:
        for waiting in (self._boots[machine], self._boots[""]):
            if waiting:
                return waiting.popleft()
        return "well"

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def app_of(self, call: Call) -> App:
        """Raises: Refusal: there is none."""
        name = call.params["app_name"]
        if name not in self.apps:
            raise Refusal(404, f"not_found: app {name!r} not found")
        return self.apps[name]

    def machine_of(self, call: Call) -> Machine:
        """Raises: Refusal: there is none."""
        machine = self.app_of(call).machines.get(call.params["machine_id"])
        if machine is None:
            raise Refusal(404, f"not_found: machine {call.params['machine_id']!r} not found")
        return machine

    def shown(self, machine: Machine) -> dict[str, Any]:
        """An answer about the machine, or about the one that it is mixed up with."""
        if (name := self.mixed_up.get(machine.name)) is None:
            return machine.shown()
        every = (one for app in self.apps.values() for one in app.machines.values())
        return next(one for one in every if one.name == name).shown()

    # The way of a call.

    async def handle(self, call: Call) -> Answer:
        found = spec().find(call.method, call.path)
        if found is None:
            return Answer(404, {"error": f"404 page not found: {call.method} {call.path}"})
        operation, params = found
        call = replace(call, operation=operation.id, params=params)
        try:
            self._authorize(call)
        except Refusal as refusal:
            return refusal.answer
        ordered = Ordered(operation.id, params.get("app_name", ""), self.clock.now())
        self.calls.append(ordered)
        answer = await self._answer(operation, call)
        ordered.status = answer.status
        self._check(lambda: spec().check_answer(operation, answer.status, answer.body))
        return answer

    async def _answer(self, operation: Operation, call: Call) -> Answer:
        fault = self.faults.next(operation.id) or Fault()
        if self.latency + fault.after > 0:
            await self.clock.sleep(self.latency + fault.after)
        if fault.lose == "request":
            raise Dropped
        if fault.answer is not None:
            return fault.answer
        try:
            self._limit(call)
            if not self._check(lambda: spec().check_request(operation, call.query, call.body)):
                raise Refusal(400, f"invalid_argument: {self.violations[-1]}")
            if operation.id not in self._handlers:
                raise Refusal(501, f"unimplemented: the fake has no {operation.id}")
            answer = await self._handlers[operation.id](self, call)
        except Refusal as refusal:
            answer = refusal.answer
        while fault.hold is not None and not fault.hold.is_set():
            await self.clock.sleep(0.02)
        if fault.lose == "reply":
            raise Dropped
        return answer

    def _authorize(self, call: Call) -> None:
        scheme, _, given = call.headers.get("authorization", "").partition(" ")
        tokens = given.split(",")
        if scheme not in ("Bearer", "FlyV1"):
            raise Refusal(401, "unauthenticated: no token")
        # A macaroon in either scheme, and nothing else in its own; a scheme within a scheme is in no token.
        if any(" " in one or (scheme == "FlyV1" and not one.startswith("fm")) for one in tokens):
            raise Refusal(401, "unauthenticated: the token cannot be read")
        now = self.clock.now()
        grants = [self.tokens[token] for token in tokens if token in self.tokens]
        grants = [grant for grant in grants if grant.expires_at > now]
        if not grants:
            raise Refusal(401, "unauthenticated: the token is invalid or has expired")
        app = call.params.get("app_name")
        if call.operation in ("CurrentToken_show", "Platform_regions_get"):
            return
        if not any(grant.app is None or grant.app == app for grant in grants):
            raise Refusal(403, "unauthorized: the token is not good for this app")

    def _limit(self, call: Call) -> None:
        identifier = call.params.get("machine_id") or call.params.get("app_name", "")
        wait = self.limits.take(call.operation, identifier, self.clock.now())
        if wait > 0:
            raise Refusal(429, "resource_exhausted: rate limit exceeded", **{"retry-after": f"{wait:.3f}"})

    def _check(self, check: Callable[[], None]) -> bool:
        try:
            check()
        except IllFormed as error:
            self.violations.append(str(error))
            return False
        return True


def bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}
