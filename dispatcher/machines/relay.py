"""The way to machines whose channels are at other replicas.

Replicas tell one another which machines they hold, and keep what they hear in memory: 10,000 machines are two
small messages each in their whole life, and no write to the database. Heartbeats stay where they arrive. Each
replica says at the same interval that it is alive, how many machines it holds, and which of them have gone
quiet; a number that differs from what others believe makes them ask for the whole list.

Messages may be lost, so nothing rests on one alone: whoever holds a machine's latest connection is right, and
a request is repeated until it is answered (the machine runs it once).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bot.protocol import FromDispatcher, Request, Response
from dispatcher.bus import Bus
from dispatcher.clock import Clock
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

TOPIC = "machines"

MISSED_SIGNS = 3
"""Missed intervals after which a replica counts as gone."""

QUIET_HEARTBEATS = 1.5
"""Heartbeats after which a machine is reported as quiet; with the reporting interval, that is before it has
missed three."""

RECEIPT_SECONDS = 5.0
"""Limit on the wait for another replica's receipt that a message was sent to its machine."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Attached(_Message):
    type: Literal["attached"] = "attached"
    machine_id: str
    opened_at: float


class _Detached(_Message):
    type: Literal["detached"] = "detached"
    machine_id: str
    opened_at: float


class _Alive(_Message):
    type: Literal["alive"] = "alive"
    count: int
    """Number of the machines that it holds."""
    quiet: dict[str, float]
    """Machine → seconds since its last message."""


class _Ask(_Message):
    """Asks for a `_Holds`."""

    type: Literal["ask"] = "ask"


class _Holds(_Message):
    type: Literal["holds"] = "holds"
    machines: dict[str, float]
    """All its machines: machine → the time when it opened its connection."""


class _Deliver(_Message):
    type: Literal["deliver"] = "deliver"
    machine_id: str
    message: FromDispatcher
    receipt: str | None = None
    """Id of the `_Receipt` that is expected, if any."""


class _Receipt(_Message):
    type: Literal["receipt"] = "receipt"
    id: str
    sent: bool


class _Answer(_Message):
    type: Literal["answer"] = "answer"
    machine_id: str
    response: Response


_Any = Annotated[
    _Attached | _Detached | _Alive | _Ask | _Holds | _Deliver | _Receipt | _Answer,
    Field(discriminator="type"),
]
_any: TypeAdapter[_Any] = TypeAdapter(_Any)


class Holder(Protocol):
    """The channels of this replica."""

    def held(self) -> dict[str, float]:
        """Machine → the time when it opened its connection to this replica."""
        ...

    def quiet(self, seconds: float) -> dict[str, float]:
        """Return machine → seconds since its last message here, for those over the limit."""
        ...

    def elsewhere(self, machine_id: str, opened_at: float) -> bool:
        """Take note that another replica holds the machine. Return False if the connection here is later."""
        ...

    async def deliver(self, machine_id: str, message: FromDispatcher) -> bool:
        """Send over the connection at this replica; return False if there is none, or it broke."""
        ...

    def answered(self, machine_id: str, response: Response) -> None:
        """Take a machine's answer to a request of this replica."""
        ...


@dataclass
class _Replica:
    heard_at: float
    machines: dict[str, float] = field(default_factory=dict)
    quiet: dict[str, float] = field(default_factory=dict)
    """Machine → the time of its last message."""


class Relay:
    """One replica's knowledge of the others' machines.

    Args:
        on_lost: Called when another replica has vanished, with any news that it had not sent.
    """

    def __init__(
        self, bus: Bus, clock: Clock, holder: Holder, heartbeat_seconds: float, on_lost: Callable[[], None]
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._holder = holder
        self._interval = heartbeat_seconds
        self._on_lost = on_lost
        self._replicas: dict[str, _Replica] = {}
        self._where: dict[str, str] = {}
        self._receipts: dict[str, asyncio.Future[bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        bus.subscribe(TOPIC, self)

    async def run(self) -> None:
        """Send this replica's signs of life and watch the others', until cancelled."""
        try:
            while not self._bus.alone:
                quiet = self._holder.quiet(QUIET_HEARTBEATS * self._interval)
                self._tell(_Alive(count=len(self._holder.held()), quiet=quiet))
                self._bury()
                await self._clock.sleep(self._interval)
        finally:
            await end_tasks(*self._tasks)

    def attached(self, machine_id: str, opened_at: float) -> None:
        """Tell the others that a machine is connected here."""
        self._forget(machine_id)
        self._tell(_Attached(machine_id=machine_id, opened_at=opened_at))

    def detached(self, machine_id: str, opened_at: float) -> None:
        """Tell the others that a machine is no longer connected here."""
        self._tell(_Detached(machine_id=machine_id, opened_at=opened_at))

    def opened_at(self, machine_id: str) -> float | None:
        """Return when the machine opened its connection to another replica; None if it has none."""
        replica = self._where.get(machine_id)
        return self._replicas[replica].machines[machine_id] if replica is not None else None

    def last_heard(self, machine_id: str) -> float | None:
        """Return when the machine last sent something to another replica, in Unix seconds; None if none holds
        it."""
        name = self._where.get(machine_id)
        if name is None:
            return None
        replica = self._replicas[name]
        return replica.quiet.get(machine_id, replica.heard_at)

    def request(self, machine_id: str, request: Request) -> None:
        """Pass a request on, if another replica holds the machine. The answer comes to `Holder.answered`."""
        replica = self._where.get(machine_id)
        if replica is not None:
            self._tell(_Deliver(machine_id=machine_id, message=request), to=replica)

    async def send(self, machine_id: str, message: FromDispatcher) -> bool:
        """Send a message through the replica that holds the machine; True once it has been sent."""
        replica = self._where.get(machine_id)
        if replica is None:
            return False
        receipt = uuid.uuid4().hex
        sent: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._receipts[receipt] = sent
        timer = asyncio.create_task(self._clock.sleep(RECEIPT_SECONDS))
        try:
            if not self._tell(_Deliver(machine_id=machine_id, message=message, receipt=receipt), to=replica):
                return False
            await asyncio.wait((sent, timer), return_when=asyncio.FIRST_COMPLETED)
            return sent.done() and sent.result()
        finally:
            del self._receipts[receipt]
            await end_tasks(timer)

    def answer(self, replica: str, machine_id: str, response: Response) -> None:
        """Give a machine's answer to the replica that asked."""
        # The name comes from the machine: trust it only if such a replica has been heard.
        if replica in self._replicas:
            self._tell(_Answer(machine_id=machine_id, response=response), to=replica)

    # The bus's subscriber.

    def resumed(self) -> None:
        self._tell(_Ask())

    def received(self, sender: str, payload: str) -> None:
        try:
            message = _any.validate_json(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            log.warning("a message of replica %s cannot be read: %s: %s", sender, first["loc"], first["msg"])
            return
        now = self._clock.monotonic()
        replica = self._replicas.setdefault(sender, _Replica(now))
        replica.heard_at = now
        match message:
            case _Attached():
                self._learn(sender, message.machine_id, message.opened_at)
            case _Detached():
                if replica.machines.get(message.machine_id) == message.opened_at:
                    self._forget(message.machine_id)
            case _Alive():
                replica.quiet = {machine_id: now - ago for machine_id, ago in message.quiet.items()}
                if message.count != len(replica.machines):
                    self._tell(_Ask(), to=sender)
            case _Ask():
                self._tell(_Holds(machines=self._holder.held()), to=sender)
            case _Holds():
                for machine_id in replica.machines.keys() - message.machines.keys():
                    self._forget(machine_id)
                for machine_id, opened_at in message.machines.items():
                    self._learn(sender, machine_id, opened_at)
            case _Deliver():
                self._spawn(self._deliver(sender, message))
            case _Receipt():
                receipt = self._receipts.get(message.id)
                if receipt is not None and not receipt.done():
                    receipt.set_result(message.sent)
            case _Answer():
                self._holder.answered(message.machine_id, message.response)

    async def _deliver(self, sender: str, message: _Deliver) -> None:
        sent = await self._holder.deliver(message.machine_id, message.message)
        if message.receipt is not None:
            self._tell(_Receipt(id=message.receipt, sent=sent), to=sender)

    def _learn(self, replica: str, machine_id: str, opened_at: float) -> None:
        known = self.opened_at(machine_id)
        if known is not None and known > opened_at:
            return
        # Recorded before the holder is told, because it passes on its held requests at once.
        self._forget(machine_id)
        self._where[machine_id] = replica
        self._replicas[replica].machines[machine_id] = opened_at
        if not self._holder.elsewhere(machine_id, opened_at):
            self._forget(machine_id)

    def _forget(self, machine_id: str) -> None:
        replica = self._where.pop(machine_id, None)
        if replica is not None:
            del self._replicas[replica].machines[machine_id]

    def _bury(self) -> None:
        """Forget silent replicas, and their machines."""
        oldest = self._clock.monotonic() - MISSED_SIGNS * self._interval
        for name in [name for name, replica in self._replicas.items() if replica.heard_at < oldest]:
            held = list(self._replicas[name].machines)
            log.warning("replica %s has gone silent; it held %d machines", name, len(held))
            for machine_id in held:
                self._forget(machine_id)
            del self._replicas[name]
            self._on_lost()

    def _tell(self, message: _Message, to: str | None = None) -> bool:
        return self._bus.alone or self._bus.publish(TOPIC, message.model_dump_json(), to)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
