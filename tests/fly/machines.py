"""A machine of the fake: its states, its events, its process and its lease.

    created → starting → started → stopping → stopped → starting …
    started → suspending → suspended → starting …
    any → destroying → destroyed; and failed, where it could not be started

States as in Fly's documentation ("Machine states and lifecycle").
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.fly.processes import Exit, Launch, Process
from tests.fly.wire import Refusal

if TYPE_CHECKING:
    from tests.fly.fake import App, FakeFly

SETTLED = frozenset({"started", "stopped", "suspended", "failed", "destroyed"})
ACTIVE = frozenset({"starting", "started", "stopping", "restarting", "suspending"})

DEFAULT_STOP_SECONDS = 5.0
"""Between the signal of a stop that names no time, and the end of what ignores it."""

SUSPENDABLE_MB = 2048
"""Memory of a machine that can be suspended: "2 GB or less" in Fly's documentation of suspend and resume."""


@dataclass
class Lease:
    nonce: str
    expires_at: float
    description: str
    owner: str = "deploy token"


class Machine:
    """One machine. Time and chance are the fake's."""

    def __init__(
        self, fake: FakeFly, app: App, name: str, region: str, config: dict[str, Any], prepares: bool
    ) -> None:
        self.fake = fake
        self.app = app
        self.id = fake.new_id()
        self.name = name
        self.region = region
        self.config = config
        self.state = "created"
        self.events: list[dict[str, Any]] = []
        """The latest first."""
        self.created_at = self.updated_at = fake.clock.now()
        self.lease: Lease | None = None
        self.cordoned = False
        self.process: Process | None = None
        self.instance_id = fake.new_version()
        self._life: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._requested_stop = False
        self._event("launch", "created", "user")
        self._run(self._prepare() if prepares else self._start(fake.prepare_seconds))

    @property
    def metadata(self) -> dict[str, str]:
        return self.config.setdefault("metadata", {})

    @property
    def gone(self) -> bool:
        return self.state == "destroyed"

    @property
    def runs(self) -> bool:
        return self.process is not None

    def shown(self) -> dict[str, Any]:
        """Return the machine as the API shows it."""
        registry, _, rest = self.config["image"].partition("/")
        repository, _, digest = rest.partition("@")
        reference = {"registry": registry, "repository": repository.partition(":")[0]}
        reference["digest"] = digest or "sha256:" + hashlib.sha256(self.config["image"].encode()).hexdigest()
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "region": self.region,
            "instance_id": self.instance_id,
            "private_ip": f"fdaa:0:18:a7b:{self.id[:4]}:{self.id[4:8]}:{self.id[8:12]}:2",
            "host_status": "ok",
            "image_ref": reference,
            "created_at": _written(self.created_at),
            "updated_at": _written(self.updated_at),
            "config": self.config,
            # Not in the description, and shown by the API.
            **({"cordoned": True} if self.cordoned else {}),
            "events": self.events,
            **({"checks": checks} if (checks := self._checks()) else {}),
        }

    def _checks(self) -> list[dict[str, Any]]:
        """Return the state of its health checks: those of its services have no names of their own."""
        services = self.config.get("services") or []
        of_services = [check for service in services for check in service.get("checks") or []]
        names = [f"servicecheck-{number:02d}" for number, _ in enumerate(of_services)]
        return [
            {"name": name, "status": "passing" if self.fake.passes(self, name) else "critical"}
            for name in (*names, *(self.config.get("checks") or {}))
        ]

    async def until(self, states: Collection[str], seconds: float) -> bool:
        """Return True if it came into one of these states in that time."""
        wanted = SETTLED if "settled" in states else states
        deadline = self.fake.clock.now() + seconds
        while self.state not in wanted:
            left = deadline - self.fake.clock.now()
            if left <= 0:
                return False
            change = asyncio.ensure_future(self._changed.wait())
            timer = asyncio.ensure_future(self.fake.clock.sleep(left))
            await asyncio.wait((change, timer), return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            timer.cancel()
        return True

    def check_lease(self, nonce: str | None) -> None:
        """Raises: Refusal: somebody else holds it."""
        lease = self.held_lease()
        if lease is not None and lease.nonce != nonce:
            raise Refusal(
                409,
                f"aborted: machine ID {self.id} lease currently held by {lease.owner}, "
                f"expires at {_written(lease.expires_at)}",
            )

    def held_lease(self) -> Lease | None:
        if self.lease is not None and self.lease.expires_at <= self.fake.clock.now():
            self.lease = None
        return self.lease

    def start(self) -> str:
        """Gives the state before."""
        before = self.state
        if before == "suspended":
            self._run(self._resume())
        elif before in ("stopped", "failed"):
            self._run(self._start(0))
        elif before != "started":
            raise Refusal(412, f"failed_precondition: unable to start machine from current state: '{before}'")
        return before

    def stop(self, number: int, seconds: float | None) -> None:
        if self.state in ("stopped", "stopping"):
            return
        if self.state not in ("started", "starting") or self.process is None:
            raise Refusal(
                412, f"failed_precondition: unable to stop machine from current state: '{self.state}'"
            )
        self._requested_stop = True
        self._move("stopping", "stop", "user")
        self.process.send(number)
        self.fake.task(self._force(DEFAULT_STOP_SECONDS if seconds is None else seconds, self.process))

    def suspend(self) -> None:
        if self.state != "started" or self.process is None:
            raise Refusal(
                412, f"failed_precondition: unable to suspend machine from current state: '{self.state}'"
            )
        if self.memory_mb > SUSPENDABLE_MB:
            raise Refusal(
                400, f"invalid_argument: machines with more than {SUSPENDABLE_MB} MB cannot be suspended"
            )
        self.fake.task(self._suspend(self.process))

    def send(self, number: int) -> None:
        if self.process is None:
            raise Refusal(412, "failed_precondition: machine is not running")
        self.process.send(number)

    def destroy(self, force: bool) -> None:
        if self.state in ("destroying", "destroyed"):
            return
        if self.state in ACTIVE and not force:
            raise Refusal(412, "failed_precondition: machine still active, refusing to destroy")
        self._end()
        self.fake.task(self._destroy("user"))

    def update(self, config: dict[str, Any], launch: bool) -> None:
        """Another configuration is another version of it."""
        self._end()
        self.config = config
        self.instance_id = self.fake.new_version()
        self._move("replacing", "update", "user")
        self._run(self._start(self.fake.prepare_seconds) if launch else self._prepare())

    def restart(self) -> None:
        if self.state != "started":
            raise Refusal(
                412, f"failed_precondition: unable to restart machine from current state: '{self.state}'"
            )
        self._end()
        self._move("restarting", "restart", "user")
        self._run(self._start(0))

    @property
    def memory_mb(self) -> int:
        return self.config.get("guest", {}).get("memory_mb", 256)

    def _run(self, life: Any) -> None:
        self._life = self.fake.task(life)

    def _end(self) -> None:
        """Whatever it does, it does no more."""
        if self._life is not None:
            self._life.cancel()
        if self.process is not None:
            self.process.send(signal.SIGKILL)
            self.process = None

    async def _prepare(self) -> None:
        await self.fake.clock.sleep(self.fake.prepare_seconds)
        self._move("stopped")

    async def _start(self, prepare: float) -> None:
        """Boot, and what comes after it, for as long as it lives."""
        await self.fake.clock.sleep(prepare)
        while True:
            fate = self.fake.next_boot(self.name)
            self._move("starting", "start", "user")
            if fate == "never":
                return
            await self.fake.clock.sleep(self.fake.boot_seconds)
            if fate in ("fails", "lacks image"):
                # Fly describes an event's request as an object, and names no member of it.
                words = f"failed to pull image {self.config['image']}: manifest unknown"
                self._move("failed")
                self._event("launch", "failed", "flyd", {"error": words} if fate == "lacks image" else None)
                return
            self._requested_stop = False
            self.process = self.fake.start(self._launch(), self.fake.clock)
            self._move("started", "start", "flyd")
            ended = await self.process.wait()
            self.process = None
            again = self._again(ended)
            self._exited(ended, again)
            if not again:
                break
        self._move("stopped")
        if self.config.get("auto_destroy"):
            await self._destroy("flyd")

    async def _resume(self) -> None:
        self._move("starting", "start", "user")
        await self.fake.clock.sleep(self.fake.resume_seconds)
        assert self.process is not None
        self.process.send(signal.SIGCONT)
        self._move("started", "start", "flyd")

    async def _suspend(self, process: Process) -> None:
        self._move("suspending", "suspend", "user")
        process.send(signal.SIGSTOP)
        await self.fake.clock.sleep(self.fake.suspend_seconds)
        self._move("suspended", "suspend", "flyd")

    async def _force(self, seconds: float, process: Process) -> None:
        await self.fake.clock.sleep(seconds)
        if self.process is process:
            process.send(signal.SIGKILL)

    async def _destroy(self, by: str) -> None:
        self._move("destroying", "destroy", by)
        await self.fake.clock.sleep(self.fake.destroy_seconds)
        self.lease = None
        self._move("destroyed", "destroy", "flyd")

    def _launch(self) -> Launch:
        init = self.config.get("init", {})
        command = tuple(init.get("exec") or (*init.get("entrypoint", ()), *init.get("cmd", ())))
        environment = {
            "FLY_APP_NAME": self.app.name,
            "FLY_MACHINE_ID": self.id,
            "FLY_REGION": self.region,
            **self.app.secrets,
            **self.config.get("env", {}),
        }
        return Launch(self.name, command, environment, self.memory_mb)

    def _again(self, ended: Exit) -> bool:
        restart = self.config.get("restart", {})
        policy = restart.get("policy", "on-failure")
        if self._requested_stop or policy == "no":
            return False
        tries = sum(event["type"] == "exit" for event in self.events)
        return policy == "always" or (ended.code != 0 and tries < restart.get("max_retries", 10))

    def _exited(self, ended: Exit, again: bool) -> None:
        facts: Mapping[str, Any] = {
            "exit_code": ended.code,
            "guest_exit_code": ended.code,
            "guest_signal": -1,
            "oom_killed": ended.oom,
            "requested_stop": self._requested_stop,
            "restarting": again,
            "signal": -1,
            "exited_at": _written(self.fake.clock.now()),
        }
        request = {"exit_event": facts, "MonitorEvent": {"exit_event": facts}, "restart_count": 0}
        self._event("exit", "stopped", "flyd", request)

    def _move(self, state: str, event: str | None = None, source: str = "flyd") -> None:
        self.state = state
        self.updated_at = self.fake.clock.now()
        if event is not None:
            self._event(event, state, source)
        self._changed.set()
        self._changed = asyncio.Event()

    def _event(self, kind: str, status: str, source: str, request: Mapping[str, Any] | None = None) -> None:
        event = {
            "id": self.fake.new_version(),
            "type": kind,
            "status": status,
            "source": source,
            "timestamp": round(self.fake.clock.now() * 1000),
        }
        self.events.insert(0, event if request is None else {**event, "request": request})


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
