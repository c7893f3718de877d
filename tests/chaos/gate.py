"""Time and death: a loop whose clock leaps, and the gate through which a dispatcher acts on the world."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EPOCH = 1_700_000_000.0
"""The unix time at which every simulation begins."""


class Stuck(Exception):
    """Everybody waits for something that time does not bring."""


class _Leap(selectors.SelectSelector):
    """Waits by moving the clock: nothing ever comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which time passes only when there is nothing else to do."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now

    @property
    def now(self) -> float:
        """Unix seconds."""
        return EPOCH + self._leap.now


@dataclass(frozen=True)
class CrashPoint:
    """Where a dispatcher dies: the n-th time that it passes a point, of one kind or of any."""

    nth: int
    kind: str | None = None


class Gate:
    """Everything that one dispatcher does to the world passes here, and nothing once it is dead.

    A dead dispatcher's tasks wait for ever at their next gate, so that no `finally` of theirs has an effect.

    Args:
        on_crash: Called when the dispatcher comes to the point where it dies.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        rng: random.Random,
        crash_point: CrashPoint | None,
        on_crash: Callable[[str], None],
    ) -> None:
        self.alive = True
        self.disposing = False
        self._loop = loop
        self._rng = rng
        self._crash_point = crash_point
        self._on_crash = on_crash
        self._passed: Counter[str | None] = Counter()

    async def through(self, kind: str, seconds: float | None = None) -> None:
        """Pass a point of this kind, which takes a moment; here the dispatcher may die."""
        await self.living()
        self._passed[kind] += 1
        self._passed[None] += 1
        point = self._crash_point
        if point is not None and self._passed[point.kind] >= point.nth and point.kind in (None, kind):
            self._on_crash(kind)
            await self.living()
        await asyncio.sleep(self.moment() if seconds is None else seconds)
        await self.living()

    async def living(self) -> None:
        """Return at once for the living, and never for the dead."""
        if self.disposing:
            raise asyncio.CancelledError
        if not self.alive:
            await self._loop.create_future()

    def moment(self) -> float:
        """Draw the time of something quick: mostly next to nothing, sometimes long enough to be overtaken."""
        luck = self._rng.random()
        if luck < 0.5:
            return self._rng.random() * 0.002
        return self._rng.random() * (0.02 if luck < 0.97 else 1.0)
