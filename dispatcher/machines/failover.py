"""Failover policy: the fleet's next step after a placement's error, and its words when none gave a machine.

Throttled     the placement is asked again when it allows; is that after the deadline, the next one
NoCapacity    the next placement at once
QuotaReached  the next placement at once
Rejected      none: they would say the same
Unreachable   the placement is looked at until it is known to have no such machine; then it is asked again,
              a few times, and after that the next one. As long as it is not known: none
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.machines.provider import (
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)

ATTEMPTS = 3
"""Attempts to create a machine at one placement when its answers are lost."""

LOOKUPS = 5
"""Unanswered look-ups in a row after which the placement is told to stop the machine, seen or not."""

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 4.0


class Faulty(Unreachable):
    """The provider raised an exception outside its contract. The call's effect is unknown; a repetition would
    fail too."""


class CutShort(Unreachable):
    """The deadline passed before the answer, because the call had waited so long for its turn.

    It may have worked, and nothing is wrong with the placement.
    """


class Abandoned(Unreachable):
    """The caller that asked for the machine died, and it could not be found out whether the machine
    exists."""


class Unknown(Unreachable):
    """The placement may have the machine: no other may be asked for it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a placement gave no machine."""

    placement: str
    error: ProviderError


def may_go_on(failures: Sequence[Failure]) -> bool:
    """Return True if another placement may be asked after these."""
    return not any(isinstance(failure.error, (Rejected, Unknown)) for failure in failures)


def nowhere(failures: Sequence[Failure]) -> bool:
    """Return True if it is certain that no placement has the machine."""
    return not any(isinstance(failure.error, Unknown) for failure in failures)


def verdict(failures: Sequence[Failure]) -> ProviderError:
    """Return one error for all: the one that ended the search, else the one that a retry helps soonest.

    Its text has the message of each placement.
    """
    words = "; ".join(f"{failure.placement}: {failure.error}" for failure in failures)
    errors = [failure.error for failure in failures]
    for final in (Rejected, Unknown):
        if any(isinstance(error, final) for error in errors):
            return Rejected(words) if final is Rejected else Unreachable(words)
    waits = [error.retry_after for error in errors if isinstance(error, Throttled)]
    if waits:
        return Throttled(words, min(waits))
    for kind in (NoCapacity, QuotaReached, Faulty):
        if any(isinstance(error, kind) for error in errors):
            return kind(words)
    return Unreachable(words)


def pause(attempt: int) -> float:
    """Return the seconds before the next attempt; the first is number 0."""
    return min(FIRST_PAUSE_SECONDS * 2 ** min(attempt, 16), LONGEST_PAUSE_SECONDS)
