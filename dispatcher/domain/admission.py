"""Admission policy: start now, wait, or be refused. Pure functions.

The deployment has a number of slots, and each agent a number of them. Waiting sessions are admitted in order;
a session that waits only for its own agent's slots delays no other agent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the sessions that are admitted at the same time, and on those that wait."""

    agents: Mapping[str, int]
    """Agent → admitted sessions."""
    queues: Mapping[str, int]
    """Agent → waiting sessions."""
    deployment: int | None = None
    """Admitted sessions of all agents; None for no limit."""


@dataclass(frozen=True, slots=True)
class Load:
    """The sessions of an agent."""

    live: int = 0
    """Sessions that take a slot: admitted and live, or over with a machine that is ending."""
    queued: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A session's position in its agent's queue."""

    number: int
    """1 is next."""
    estimated_seconds: float | None
    """Estimated wait, by the agent's last sessions; None if there are none."""


def has_slot(agent: str, loads: Mapping[str, Load], limits: Limits) -> bool:
    """Return True if one more session of the agent may be admitted."""
    if loads.get(agent, Load()).live >= limits.agents.get(agent, 0):
        return False
    return limits.deployment is None or sum(load.live for load in loads.values()) < limits.deployment


def may_overtake(agent: str, loads: Mapping[str, Load], limits: Limits) -> bool:
    """Return True if a new session of the agent takes a slot from nobody who waits for it."""
    if loads.get(agent, Load()).queued > 0:
        return False
    if limits.deployment is None:
        return True
    return not any(load.queued > 0 and has_slot(name, loads, limits) for name, load in loads.items())


def is_admitted(agent: str, loads: Mapping[str, Load], limits: Limits) -> bool:
    """Return True if a new session of the agent is admitted at once."""
    return has_slot(agent, loads, limits) and may_overtake(agent, loads, limits)


def is_full(agent: str, queue_seconds: float, loads: Mapping[str, Load], limits: Limits) -> bool:
    """Return True if the queue is full, too, for a new session that is not admitted."""
    return queue_seconds <= 0 or loads.get(agent, Load()).queued >= limits.queues.get(agent, 0)


def estimate(number: int, slots: int, durations: list[float]) -> Place:
    """Return a position with its estimate, from the durations of the last sessions (seconds): each slot
    becomes free once per session."""
    if not durations:
        return Place(number, None)
    return Place(number, number * sum(durations) / len(durations) / max(slots, 1))
