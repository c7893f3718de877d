"""A machine's process: a scripted one on the fake's clock, or a real one of this host."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dispatcher.clock import Clock

SIGKILLED, SIGTERMED = 128 + signal.SIGKILL, 128 + signal.SIGTERM
CHECKOUT = Path(__file__).resolve().parents[2]

TIMED_OUT = 124
"""What `timeout` says of a program that it ended."""


@dataclass(frozen=True)
class Launch:
    """The process that a machine is to run."""

    machine: str
    """Its name."""
    command: tuple[str, ...]
    """The entrypoint, and its arguments."""
    environment: Mapping[str, str]
    memory_mb: int


@dataclass(frozen=True)
class Exit:
    code: int
    oom: bool = False


class Process(Protocol):
    async def wait(self) -> Exit:
        """Return when it has ended."""
        ...

    def send(self, number: int) -> None:
        """Send it a signal."""
        ...


Start = Callable[[Launch, Clock], Process]
"""Runs a machine's command."""


@dataclass
class Scripted:
    """A process that does what it is told here: it runs until it is stopped, or ends after a time.

    A command that begins with `timeout` is ended after that many seconds, as the real one does it.
    """

    launch: Launch
    clock: Clock
    ends_after: float | None = None
    exit: Exit = Exit(0)
    ignores_term: bool = False
    """Whether nothing but SIGKILL ends it."""
    signals: list[int] = field(default_factory=list)
    _ended: asyncio.Future[Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def wait(self) -> Exit:
        timers = []
        if self.ends_after is not None:
            timers.append(asyncio.create_task(self._end(self.ends_after, self.exit)))
        if self.launch.command[:1] == ("timeout",):
            seconds = next(float(word) for word in self.launch.command if word[:1].isdigit())
            timers.append(asyncio.create_task(self._end(seconds, Exit(TIMED_OUT))))
        try:
            return await self._ended
        finally:
            for timer in timers:
                timer.cancel()

    def send(self, number: int) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL:
            self._finish(Exit(SIGKILLED))
        elif number in (signal.SIGTERM, signal.SIGINT) and not self.ignores_term:
            self._finish(Exit(128 + number))

    async def _end(self, seconds: float, exit: Exit) -> None:
        await self.clock.sleep(seconds)
        self._finish(exit)

    def _finish(self, exit: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(exit)


class OfThisHost:
    """A real process: the machine's own command, with the machine's variables and no others.

    `python` is this interpreter, which finds our `bot` in the checkout. Its process group is the machine: a
    signal reaches all of it.
    """

    def __init__(self, launch: Launch, _clock: Clock) -> None:
        home = os.path.dirname(sys.executable)
        environment = {"PATH": f"{home}:/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), **launch.environment}
        self._started = asyncio.create_task(
            asyncio.create_subprocess_exec(*launch.command, env=environment, start_new_session=True)
        )
        self._sent: list[int] = []

    async def wait(self) -> Exit:
        process = await self._started
        for number in self._sent:
            self._kill(process.pid, number)
        code = await process.wait()
        return Exit(code if code >= 0 else 128 - code)

    def send(self, number: int) -> None:
        if self._started.done():
            self._kill(self._started.result().pid, number)
        else:
            self._sent.append(number)

    @staticmethod
    def _kill(group: int, number: int) -> None:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
