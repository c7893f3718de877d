"""The control thread: the channel, the timers and the end of a machine, whatever its bot is doing.

The bot has the main thread, as under `python bot.py`. Bot code that blocks (`time.sleep`, an import that
hangs) blocks only that thread: the control thread still obeys `stop`, keeps the maximum duration and sends
`ended`.

Heartbeats go on while a bot starts. During a call a heartbeat says that the bot's event loop runs: the
dispatcher ends a session whose bot blocks its loop for long, as `unresponsive`. A bot that never releases
Python's lock stops even this thread; `faulthandler`, which needs no lock, then ends the process.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from bot.answers import Answers
from bot.channel import Channel, Refused
from bot.health import beat
from bot.logs import logger
from bot.outcome import Outcome
from bot.process import ProcessClock, cpu_seconds, end_now, rss_bytes
from bot.protocol import (
    Acknowledge,
    Assign,
    Assigned,
    Assignment,
    ClientConnected,
    ClientDisconnected,
    EndReason,
    FromDispatcher,
    FromMachine,
    Heartbeat,
    Hello,
    Phase,
    Ready,
    Request,
    Response,
    RoomOpen,
    Stop,
    Timings,
    Welcome,
)

INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: the runtime itself failed."""

_IN_A_CALL: tuple[Phase, ...] = ("ready", "active")
_BEFORE_A_CALL: tuple[Phase, ...] = ("booting", "idle", "loading", "waiting")


@dataclass(frozen=True)
class Limits:
    """Limits on the machine's waits for others, in seconds."""

    grace: float = 5.0
    """Wait for a bot that is told to stop."""
    acknowledge: float = 10.0
    """Wait for the dispatcher to acknowledge `ended`."""
    acknowledge_stopped: float = 2.0
    """Wait for the same when the host stops the machine: Docker kills 10 s after SIGTERM, and may have
    stopped the dispatcher too."""
    unreachable: float = 120.0
    """Wait for an unreachable dispatcher, for a machine without a call; without a dispatcher it has nothing
    to do."""
    room: float = 3.0
    """Wait for an unreachable dispatcher to say that the session's room exists. A restart takes about as
    long; after it the room either exists or will never be opened."""
    exit_hooks: float = 2.0
    """Wait for the bot's exit hooks, after `ended`."""
    last_resort: float = 5.0
    """Wait after all of these, before the process is ended without Python's help."""


class Commands(Protocol):
    """Requests of the control thread to the session; every method may be called from any thread."""

    def assign(self, assignment: Assignment) -> None: ...

    def room_open(self) -> None: ...

    def request(self, request: Request) -> None: ...

    def stop(self) -> None: ...

    def run_soon(self, tell: Callable[[], None]) -> None:
        """Have the bot's event loop run this."""
        ...


class Control:
    """Public methods may be called from any thread, and return at once.

    Args:
        max_wait: For a machine of the reserve, the limit on its wait for a session, in seconds.
    """

    def __init__(
        self,
        *,
        machine_id: str,
        dispatcher: str,
        token: str,
        assignment: Assignment | None,
        clock: ProcessClock,
        limits: Limits,
        health_file: Path | None = None,
        max_wait: float | None = None,
    ) -> None:
        self._machine_id = machine_id
        self._dispatcher = dispatcher
        self._channel = Channel(dispatcher, token, self)
        self._assignment: Assignment | None = None
        self._started_with = assignment
        self._clock = clock
        self._limits = limits
        self._health_file = health_file
        self._max_wait = max_wait
        self._may_run = max_wait is None
        """False for a machine of the reserve until its session is certainly its own."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="switchboard-control", daemon=True)
        self._answers = Answers()
        self._phase: Phase = "booting"
        self._bot_ran = True
        self._timings = Timings()
        self._requested: Outcome | None = None
        self._outcome: Outcome | None = None
        self._unreportable = False
        self._left = threading.Event()
        self._exit_code = 0

    def start(self, commands: Commands) -> None:
        """Open the channel, and pass on what the dispatcher asks for."""
        self._commands = commands
        self._thread.start()

    # What the session reports.

    def phase(self, phase: Phase) -> None:
        self._post(self._set_phase, phase)

    def mark(self, name: str) -> None:
        """Note the time of a field of `Timings`; only the first call for a field counts."""
        self._post(self._set_timing, name, self._clock.milliseconds())

    def ready(self) -> None:
        self._post(self._say_ready)

    def client_connected(self) -> None:
        self._post(self._say_client, True)

    def client_disconnected(self) -> None:
        self._post(self._say_client, False)

    def send(self, message: FromMachine) -> None:
        self._post(self._send, message)

    def stop(self, message: str) -> None:
        """End the session, because the machine's host ends the machine."""
        self._post(self._stop, "machine_stopped", message)

    def finish(self, outcome: Outcome) -> int:
        """Report how the bot ended, wait until that is on record, and return the exit status.

        Returns after `Limits.acknowledge` at the latest.
        """
        self._post(self._finish, outcome)
        self._left.wait()
        return self._exit_code

    # The channel's owner.

    def hello(self) -> Hello:
        return Hello(
            machine_id=self._machine_id,
            session_id=self._assignment.session_id if self._assignment else None,
            phase=self._phase,
            versions=_versions(),
            timings=self._timings,
            opened_at=time.monotonic(),
        )

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(phase=self._phase, rss_bytes=rss_bytes(), cpu_seconds=cpu_seconds())

    def is_alive(self) -> bool:
        ran = self._bot_ran
        if ran:  # else the previous check is still queued on the event loop
            self._bot_ran = False
            self._commands.run_soon(self._note_that_the_bot_ran)
        return ran or self._phase not in _IN_A_CALL

    def received(self, message: FromDispatcher) -> None:
        match message:
            case Welcome():
                self._set_timing("connected", self._clock.milliseconds())
                # Also after a reconnect: `ended` is repeated until it is on record.
                self._say_ended()
            case Assign(assignment=assignment):
                self._assign(assignment)
            case RoomOpen():
                self._may_run = True
                self._commands.room_open()
            case Request() as request:
                if self._answers.is_new(request):
                    self._commands.request(request)
                elif (answer := self._answers.find(request)) is not None:
                    self._channel.send(answer)
            case Stop(message=text):
                self._stop("stopped", text)
            case Acknowledge():
                if self._outcome is not None:
                    self._leave(0)

    def unconnected(self, seconds: float) -> None:
        if seconds >= self._limits.room and self._may_run:
            self._commands.room_open()
        if seconds < self._limits.unreachable or self._phase not in _BEFORE_A_CALL:
            return
        self._give_up_on_dispatcher(
            f"the dispatcher at {self._dispatcher} was not reachable for {seconds:.0f} s"
        )

    def _note_that_the_bot_ran(self) -> None:
        self._bot_ran = True

    # All below runs on the control thread.

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._serve())
        except Exception:  # noqa: BLE001 - without this thread nobody bounds the bot
            logger.exception("the machine's control thread failed")
            end_now(INTERNAL_ERROR)

    async def _serve(self) -> None:
        if self._health_file is not None:
            self._alive = asyncio.create_task(beat(self._health_file))
        if self._started_with is not None:
            self._assign(self._started_with)
        if self._max_wait is not None:
            self._loop.call_later(self._max_wait, self._wait_no_longer, self._max_wait)
        try:
            await self._channel.run()
        except Refused as refusal:
            self._give_up_on_dispatcher(str(refusal))
        await asyncio.Event().wait()  # the timers of the end still run

    def _post(self, call, *arguments) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)

    def _send(self, message: FromMachine) -> None:
        if isinstance(message, Response):
            self._answers.keep(message)
        self._channel.send(message)

    def _wait_no_longer(self, seconds: float) -> None:
        if self._assignment is None:
            self._stop("stopped", f"No session came within {seconds:g} s.")

    def _assign(self, assignment: Assignment) -> None:
        if self._assignment is not None:
            if self._assignment.session_id != assignment.session_id:
                logger.error(
                    f"session {assignment.session_id} is refused: {self._assignment.session_id} is served"
                )
            else:
                self._say_assigned(assignment)
            return
        if self._requested is not None or self._outcome is not None:
            logger.error(f"session {assignment.session_id} is refused: this machine ends")
            return
        self._assignment = assignment
        if self._max_wait is not None:
            self._clock.restart()
            before = self._timings.model_dump(exclude_none=True)
            self._timings = Timings(**dict.fromkeys(before, 0.0))
        self._say_assigned(assignment)
        seconds = assignment.max_duration_seconds
        text = f"The session reached its maximum duration of {seconds:g} s."
        self._loop.call_later(seconds, self._stop, "max_duration", text)
        limits = self._limits
        last = seconds + limits.grace + limits.acknowledge + limits.exit_hooks + limits.last_resort
        faulthandler.dump_traceback_later(last, exit=True, file=sys.__stderr__ or 2)
        self._commands.assign(assignment)

    def _say_assigned(self, assignment: Assignment) -> None:
        if self._max_wait is not None:
            self._channel.send(Assigned(session_id=assignment.session_id))

    def _set_phase(self, phase: Phase) -> None:
        if phase == self._phase or self._phase == "ending":
            return
        self._phase = phase
        if self._channel.connected:
            self._channel.send(self.heartbeat())

    def _set_timing(self, name: str, milliseconds: float) -> None:
        if getattr(self._timings, name) is None:
            self._timings = self._timings.model_copy(update={name: milliseconds})

    def _say_ready(self) -> None:
        self._set_phase("ready")
        self._set_timing("ready", self._clock.milliseconds())
        self._channel.send(Ready(timings=self._timings))

    def _say_client(self, connected: bool) -> None:
        self._set_phase("active" if connected else "ready")
        self._channel.send(ClientConnected(timings=self._timings) if connected else ClientDisconnected())

    def _stop(self, reason: EndReason, message: str) -> None:
        if self._requested is not None or self._outcome is not None:
            return
        logger.info(f"stopping: {message}")
        self._requested = Outcome(reason, message)
        self._set_phase("ending")
        self._commands.stop()
        grace = self._limits.grace
        unstoppable = Outcome(reason, message, f"The bot did not stop within {grace:g} s.")
        self._loop.call_later(grace, self._finish, unstoppable)

    def _give_up_on_dispatcher(self, why: str) -> None:
        logger.error(f"{why}; this machine ends")
        self._unreportable = True
        self._stop("stopped", f"{why[0].upper()}{why[1:]}.")

    def _finish(self, outcome: Outcome) -> None:
        if self._outcome is not None:
            return
        if self._requested is not None:
            outcome = replace(self._requested, detail=outcome.detail)
        self._outcome = outcome
        log = logger.info if outcome.exit_code == 0 else logger.error
        log(f"ended ({outcome.reason}): {outcome.message}")
        self._set_phase("ending")
        if self._unreportable:
            self._leave(1)
            return
        self._say_ended()
        limits = self._limits
        by_host = outcome.reason == "machine_stopped"
        wait = limits.acknowledge_stopped if by_host else limits.acknowledge
        self._loop.call_later(wait, self._leave, outcome.exit_code)

    def _say_ended(self) -> None:
        if self._outcome is None or not self._channel.connected:
            return
        self._channel.send(self._outcome.to_message())

    def _leave(self, code: int) -> None:
        if self._left.is_set():
            return
        self._exit_code = code
        self._left.set()
        # The main thread leaves, unless the bot holds it.
        self._loop.call_later(self._limits.exit_hooks, end_now, code)


def _versions() -> dict[str, str]:
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    try:
        versions["pipecat"] = version("pipecat-ai")
    except PackageNotFoundError:  # the bot file's import will say so
        logger.warning("pipecat-ai is not installed")
    return versions
