"""The progress of a bot: turns pipeline events into the machine's reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from bot import outcome, protocol
from bot.outcome import Outcome
from bot.protocol import FromMachine, Latency, Phase


class Report(Protocol):
    """A listener to the session's progress, such as `bot.control.Control`. Every method returns at once."""

    def phase(self, phase: Phase) -> None: ...

    def mark(self, name: str) -> None:
        """Note the time of a field of `Timings`."""
        ...

    def ready(self) -> None: ...

    def client_connected(self) -> None: ...

    def client_disconnected(self) -> None: ...

    def send(self, message: FromMachine) -> None: ...


class Progress:
    """Reports `ready` once, and before the client, whatever order the frames come in.

    Args:
        in_room: Whether the bot is ready only once it is in a room (Daily), and not with its pipeline alone.
        end: Ends the session with this outcome.
    """

    def __init__(self, report: Report, *, in_room: bool, end: Callable[[Outcome], None]) -> None:
        self._report = report
        self._end = end
        self._missing = {"pipeline", "room"} if in_room else {"pipeline"}
        self._client = False
        self.started = False
        """True once the pipeline has started or a client has been there."""
        self.error = ""
        """The reason why a part of the pipeline cannot do its job any more."""
        self.is_broken = False
        """True if the pipeline ended for it."""

    def pipeline_started(self) -> None:
        self.started = True
        self._report.mark("pipeline")
        self._reach("pipeline")

    def bot_in_room(self) -> None:
        self._reach("room")

    def join_refused(self, words: str) -> None:
        self._end(outcome.join_refused(words))

    def removed_from_room(self) -> None:
        self._end(outcome.removed_from_room())

    def client_here(self) -> None:
        self.started = True
        self._report.mark("client")
        if not self._client:
            self._client = True
            if not self._missing:
                self._report.client_connected()

    def client_gone(self) -> None:
        if self._client:
            self._client = False
            if not self._missing:
                self._report.client_disconnected()

    def bot_spoke(self) -> None:
        self._report.mark("first_word")

    def failed(self, error: str, *, fatal: bool) -> None:
        # The first error is the cause of those after it.
        if not self.error or (fatal and not self.is_broken):
            self.error = error
        self.is_broken = self.is_broken or fatal

    def latency(self, kind: Literal["first_word", "turn"], milliseconds: float) -> None:
        self._report.send(Latency(kind=kind, milliseconds=protocol.milliseconds(milliseconds)))

    def _reach(self, what: str) -> None:
        if what not in self._missing:
            return
        self._missing.remove(what)
        if not self._missing:
            self._report.ready()
            if self._client:
                self._report.client_connected()
