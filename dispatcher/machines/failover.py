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
"""How often one placement is asked to create a machine when its answers are lost."""

LOOKUPS = 5
"""After so many unanswered look-ups in a row the placement is told to stop the machine, seen or not."""

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 4.0


class Faulty(Unreachable):
    """The provider raised what it must not. What it did before is not known, and it would do it again."""


class CutShort(Unreachable):
    """The call had waited so long for its turn that the deadline came before its answer. It may have worked,
    and nothing is wrong with the placement."""


class Abandoned(Unreachable):
    """Whoever asked for the machine died over it, and whether there is one could not be found out."""


class Unknown(Unreachable):
    """The placement may have the machine: no other may be asked for it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a placement gave no machine."""

    placement: str
    error: ProviderError


def may_go_on(failures: Sequence[Failure]) -> bool:
    """Return True if another placement may be asked after these."""
    return not any(isinstance(failure.error, (Rejected, Unknown)) for failure in failures)


def nowhere(failures: Sequence[Failure]) -> bool:
    """Return True if it is certain that no placement has the machine."""
    return not any(isinstance(failure.error, Unknown) for failure in failures)


def verdict(failures: Sequence[Failure]) -> ProviderError:
    """One error for all: of the kind that ended the search, else of the one that a retry helps soonest.

    Its text has the words of each placement.
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
    """Seconds before the next attempt; the first is number 0."""
    return min(FIRST_PAUSE_SECONDS * 2 ** min(attempt, 16), LONGEST_PAUSE_SECONDS)
