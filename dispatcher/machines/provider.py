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
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal, Protocol, runtime_checkable

from dispatcher.domain.model import MachineStatus
from dispatcher.rate_limit import Rate

Action = Literal["create", "start", "get", "list", "stop"]
"""A call to a provider; each kind has its own rate limit."""

MACHINE_VARIABLE = "SWITCHBOARD_MACHINE_ID"
"""Variable of a machine with its id."""

LOG_BYTES = 256 * 1024
"""Limit on the part of a log in one answer, for the dispatcher's memory."""

LOG_PIECE_BYTES = 64 * 1024
"""Length from which on an unfinished line is returned in pieces; a shorter one waits for its end."""


class ProviderError(Exception):
    """A call to a machines API failed. The text is for the log's reader."""


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
class SpecVariant:
    """The parts of a machine's specification that depend on the placement."""

    image: str
    arguments: tuple[str, ...]


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
    agent: str = ""
    """Name of the machine's agent, for a provider that has a template for each."""
    answer_by: float = math.inf
    """Unix seconds. A create that waits for the machine's start answers before, started or not."""
    agent_environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The variables that the agent's `env` names, secrets included: never log them.

    A provider whose cloud stores them and gives them to machines itself leaves them out.
    """

    variants: Mapping[str, SpecVariant] = field(default_factory=dict[str, "SpecVariant"])
    """Placement → what differs there. Providers get the specification of their placement, without this."""

    def at(self, placement: str) -> MachineSpec:
        """Return the specification for one placement."""
        if (variant := self.variants.get(placement)) is not None:
            return replace(self, image=variant.image, arguments=variant.arguments, variants={})
        return replace(self, variants={}) if self.variants else self

    @property
    def whole_environment(self) -> Mapping[str, str]:
        """Both environments; the machine's own variables take precedence."""
        return {**self.agent_environment, **self.environment}


def thread_variables(cpu: float) -> dict[str, str]:
    """Return variables for numeric libraries, which otherwise start a thread per core of the host, whatever
    the machine's size in vCPUs."""
    threads = str(max(1, math.ceil(cpu)))
    return {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}


class MachineProvider(Protocol):
    """An adapter to one machines API. Its methods raise only `ProviderError` by contract."""

    @property
    def name(self) -> str:
        """The provider's name in rows, logs and metrics."""
        ...

    async def create(self, spec: MachineSpec) -> MachineStatus:
        """Create the machine. Idempotent by `spec.id`.

        Any error but `Unreachable` means that there is no machine. A cancelled call counts as `Unreachable`.
        """
        ...

    async def get(self, machine_id: str) -> MachineStatus | None:
        """Return the machine's status, or None if the provider does not know it."""
        ...

    def list(self) -> AsyncIterator[MachineStatus]:
        """Yield every machine of this deployment that is not gone."""
        ...

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        """Stop the machine gracefully; kill it after `grace`. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Preparation:
    """The common part of one agent's machines."""

    bot_file: str
    environment: Mapping[str, str] = field(repr=False)
    """`MachineSpec.whole_environment` without the machine's token and trace context."""
    image: str = ""
    python: str = ""


@runtime_checkable
class Prepares(Protocol):
    """A provider that can prepare for machines before they are requested."""

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """Prepare for machines like these. Returns at once; the work goes on in the background."""
        ...

    async def close(self) -> None:
        """Undo what `prepare` started. Machines are not touched."""
        ...


@dataclass(frozen=True, slots=True)
class LogPart:
    """Lines that a machine printed, without gaps between them."""

    lines: tuple[str, ...]
    next: int
    """The log's place after these lines, in the provider's own unit; later places are larger."""
    skipped: int | None = 0
    """Requested bytes before the first line that are missing; None: some, uncounted."""


@runtime_checkable
class KeepsLogs(Protocol):
    """A provider that keeps machines' output, also for a while after their end."""

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Return the last lines that the machine printed, `LOG_BYTES` at most; None if nothing is kept.

        Memory and time are limited while it is read: a bot may print without end, even in one line.

        Args:
            after: `next` of an earlier part: only later lines are returned. An invalid place counts as the
                beginning.
            ended: The machine is gone, so its last line will not grow.

        Raises:
            Rejected: This provider cannot read the log; the text says where it is.
        """
        ...


@runtime_checkable
class PublishesRates(Protocol):
    """A provider whose machines API has published rate limits: the fleet stays under them."""

    @property
    def rates(self) -> Mapping[Action, Rate]:
        """The rate limit of each limited action."""
        ...


@runtime_checkable
class HasLanes(Protocol):
    """A provider whose rate limits apply to each of several lanes: a queue in one does not delay another."""

    def lane(self, machine_id: str) -> str:
        """Return the lane of this machine, which may not exist yet."""
        ...


@runtime_checkable
class KeepsEnded(Protocol):
    """A provider that keeps ended machines, so that their end can be looked up."""

    @property
    def ended(self) -> Collection[str]:
        """The ended machines that the last `list` found."""
        ...

    def recorded(self, machine_ids: Iterable[str]) -> None:
        """Release these ended machines: their end is on record, or of no interest."""
        ...


@runtime_checkable
class Fetches(Protocol):
    """A provider whose host needs an image before a machine can run it."""

    async def fetch(self, image: str) -> None:
        """Fetch the image, unless it is there.

        Raises:
            ProviderError: it cannot be fetched.
        """
        ...


@runtime_checkable
class Answers(Protocol):
    """A provider that can cheaply tell whether it can be asked for machines now."""

    async def check(self) -> None:
        """Return if machines can be requested; else raise the error that a create would raise."""
        ...


@runtime_checkable
class StartsSeparately(Protocol):
    """A provider whose `create` makes a machine in one call and starts it in another.

    A machine between the two is `requested` until it is started. `get` does not start it, because its caller
    may be about to stop the machine.
    """

    async def start(self, spec: MachineSpec) -> MachineStatus:
        """Start a created machine. Idempotent; returns its status.

        `NoCapacity`, `QuotaReached` and `Rejected` mean that the machine no longer exists.
        """
        ...


@runtime_checkable
class Suspends(Protocol):
    """A provider that can suspend a machine, which then costs only its storage, and resume it."""

    async def suspend(self, machine_id: str) -> None:
        """Suspend a running machine. Its connections are lost; its state is `requested` until it resumes."""
        ...

    async def resume(self, machine_id: str) -> MachineStatus:
        """Resume the machine. Its clock is behind for a while; if its memory was lost, it starts anew."""
        ...


@runtime_checkable
class StartsSlowly(Protocol):
    """A provider whose `create` waits for a machine that takes longer to start than others do."""

    @property
    def create_seconds(self) -> float:
        """Limit on one create. It answers by `MachineSpec.answer_by`, which may be sooner."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A provider whose `get` may not know a machine yet although its create succeeded.

    Without this, `get` is reliable from the moment in which a create has ended.
    """

    @property
    def settling(self) -> timedelta:
        """Time after a create's end from which on `None` from `get` means that there is no machine."""
        ...
