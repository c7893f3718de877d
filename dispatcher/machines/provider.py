"""The contract with a machines API, and the closed set of errors that callers act on.

ProviderError
├── Throttled      too many calls; the same call may go through after `retry_after` seconds
├── NoCapacity     the provider has no machine of this size here now; another placement may
├── QuotaReached   the account's limit; another placement may help, repeating the call does not
├── Rejected       permanent: the request or the stack is wrong
└── Unreachable    nothing is known, the call may have worked: look the machine up by its id first
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Protocol, runtime_checkable

from dispatcher.domain.model import MachineStatus
from dispatcher.rate_limit import Rate

Action = Literal["create", "start", "get", "list", "stop"]
"""A call to a provider; each kind has a rate of its own."""

MACHINE_VARIABLE = "SWITCHBOARD_MACHINE_ID"
"""In the environment of a machine: its id."""

LOG_BYTES = 256 * 1024
"""The most that a provider gives of a machine's log: one answer must not fill the dispatcher's memory."""

LOG_PIECE_BYTES = 64 * 1024
"""An unfinished line of this length is given as it is; a shorter one waits for its end."""


class ProviderError(Exception):
    """A call to a machines API did not do what was asked. The text is for the person who reads the log."""


class Throttled(ProviderError):
    """Too many calls. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoCapacity(ProviderError):
    """The provider has no machine of this size here now."""


class QuotaReached(ProviderError):
    """The account's limit is reached."""


class Rejected(ProviderError):
    """Permanent: repeating the same call cannot help."""


class Unreachable(ProviderError):
    """No answer: the call may have worked or not."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine to create. Its provider-side identity follows from `id` alone."""

    id: str
    bot_file: str
    """The path of the bot file: on this host for processes, else in the image."""
    arguments: tuple[str, ...]
    """The arguments of `python -m bot`."""
    environment: Mapping[str, str] = field(repr=False)
    """Variables of this one machine. Its token is among them: never log them."""
    cpu: float
    """vCPUs."""
    memory_mb: int
    """MiB."""
    max_duration: timedelta
    """The deadline that a provider enforces where it can."""
    image: str = ""
    """The image's reference; empty for processes, which need none."""
    python: str = ""
    """The interpreter that has the bot's packages, for processes; empty for the dispatcher's own."""
    agent_environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The variables that the agent's `env` names, its secrets among them: never log them. A provider whose
    cloud keeps them and hands them to machines itself leaves them out."""

    @property
    def whole_environment(self) -> Mapping[str, str]:
        """Both; the machine's own have precedence."""
        return {**self.agent_environment, **self.environment}


def thread_variables(cpu: float) -> dict[str, str]:
    """Variables for numeric libraries: else they start a thread per core of the host, whatever the machine's
    size in vCPUs."""
    threads = str(max(1, math.ceil(cpu)))
    return {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}


class MachineProvider(Protocol):
    """An adapter to one machines API. Every method raises `ProviderError` and nothing else by design."""

    @property
    def name(self) -> str:
        """The provider's name in rows, logs and metrics."""
        ...

    async def create(self, spec: MachineSpec) -> MachineStatus:
        """Create the machine; a second call with the same `spec.id` gives the same machine.

        Any error but `Unreachable` says that there is no machine. A call that is cancelled is as good as
        `Unreachable`.
        """
        ...

    async def get(self, machine_id: str) -> MachineStatus | None:
        """Return what is known of the machine, or None if the provider has never heard of it."""
        ...

    def list(self) -> AsyncIterator[MachineStatus]:
        """Every machine of this deployment that is not gone."""
        ...

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        """End the machine: ask it, and after `grace` force it. Stopping what is gone is fine."""
        ...


@dataclass(frozen=True, slots=True)
class Preparation:
    """The common part of the machines of one agent."""

    bot_file: str
    environment: Mapping[str, str] = field(repr=False)
    """Variables of `MachineSpec.whole_environment`, all but the machine's token and its trace context."""
    image: str = ""
    python: str = ""


@runtime_checkable
class Prepares(Protocol):
    """A provider that can get ready for machines before they are asked for."""

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """Machines like these will be asked for. Returns at once; getting ready goes on behind it."""
        ...

    async def close(self) -> None:
        """Undo what `prepare` started. Machines are not touched."""
        ...


@dataclass(frozen=True, slots=True)
class LogPart:
    """Lines of what a machine printed, without gaps between them."""

    lines: tuple[str, ...]
    next: int
    """Where the log goes on after them; the provider's own measure, and larger for what comes later."""
    skipped: int | None = 0
    """Bytes before the first line that were asked for and are not there; None: some, uncounted."""


@runtime_checkable
class KeepsLogs(Protocol):
    """A provider that keeps what machines print, also for a while after their end."""

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Return the last lines that the machine printed, `LOG_BYTES` at most; None if nothing is kept.

        Memory and time are bounded while it is read: a bot may print without end, also in one line.

        Args:
            after: `next` of an earlier part: only what came since is asked for. What is no place in this log
                counts as the log's beginning.
            ended: The machine is gone: its last line is as finished as it will be.

        Raises:
            Rejected: The log is kept where this provider cannot read it; the text says where.
        """
        ...


@runtime_checkable
class PublishesRates(Protocol):
    """A provider whose machines API has published rate limits: the fleet stays under them."""

    @property
    def rates(self) -> Mapping[Action, Rate]:
        """The rate of each action that has one."""
        ...


@runtime_checkable
class HasLanes(Protocol):
    """A provider whose rates hold for each of several parts of it: who waits in one keeps no other one
    waiting."""

    def lane(self, machine_id: str) -> str:
        """The part that a machine is in, or would be."""
        ...


@runtime_checkable
class KeepsEnded(Protocol):
    """A provider that keeps machines that have ended, for whoever asks how."""

    @property
    def ended(self) -> Collection[str]:
        """Those that the last `list` found."""
        ...

    def recorded(self, machine_ids: Iterable[str]) -> None:
        """How these ended is on record, or nobody will ask: they need not be kept any longer."""
        ...


@runtime_checkable
class Fetches(Protocol):
    """A provider whose host has to have an image before a machine can run it."""

    async def fetch(self, image: str) -> None:
        """Get the image, unless it is there; raise a ProviderError if it cannot be had."""
        ...


@runtime_checkable
class Answers(Protocol):
    """A provider that tells at little cost whether it can be asked for machines now."""

    async def check(self) -> None:
        """Return if it can; raise `Unreachable` or what else a create would be refused with."""
        ...


@runtime_checkable
class StartsSeparately(Protocol):
    """A provider whose `create` makes a machine in one call and starts it in another.

    What was left between the two stays `requested` until it is started: `get` does not do that, for who looks
    at a machine may be about to end it.
    """

    async def start(self, spec: MachineSpec) -> MachineStatus:
        """Start a machine that was created; what it is by now, if it was started already.

        `NoCapacity`, `QuotaReached` and `Rejected` say that there is no such machine any more.
        """
        ...


@runtime_checkable
class Suspends(Protocol):
    """A provider that can freeze a machine, which then costs its storage only, and let it go on."""

    async def suspend(self, machine_id: str) -> None:
        """Freeze a machine that runs. Its connections are lost; its state is `requested` until it goes on."""
        ...

    async def resume(self, machine_id: str) -> MachineStatus:
        """Let it go on. Its clock is behind for a while; or it has begun anew, where what was frozen is
        lost."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A provider whose `get` may not know a machine yet although its create went through.

    Without this, `get` tells the truth from the moment in which a create has ended.
    """

    @property
    def settling(self) -> timedelta:
        """So long after a create has ended, however it did, `None` from `get` means that there is none."""
        ...
