"""The logs of a stack's dispatcher and bots where a cloud's own tool shows them: `docker`, `fly`."""

from __future__ import annotations

import contextlib
import io
import json
import math
import queue
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dispatcher.machines.container.request import DEPLOYMENT_LABEL, MACHINE_LABEL
from dispatcher.machines.fly.request import MACHINE_KEY
from stacks.errors import StackError

DISPATCHER = "dispatcher"
MOST_FOLLOWED = 50
"""Bots that are followed at a time: each is a process of the tool."""

LOOK_SECONDS, SSH_LOOK_SECONDS = 1.0, 5.0
"""Between two looks for bots that are new; over SSH each is a connection."""

POLL_SECONDS = 0.1

ASK_SECONDS = 60.0
"""Limit on a call of the tool that only lists."""

CHUNK = 64 * 1024
"""Longest part of a line that is shown at once."""

MOST_FAILED_LOOKS = 5
"""Looks for new bots that may fail one after the other: an ssh connection breaks now and then."""

_QUEUED_LINES = 1000


@dataclass(frozen=True)
class Source:
    """Lines that a command prints.

    Args:
        name: What stands before each of them.
        only: Lines without this text are left out.
    """

    name: str
    words: Sequence[str]
    only: str = ""


class Tool(Protocol):
    """The commands of one cloud's tool for one stack."""

    def dispatcher(self, session: str, *, once: bool) -> Source:
        """Return the dispatcher's lines, or those of them about one session."""
        ...

    look_seconds: float
    """Between two looks for bots that are new."""

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        """Return what there is of bots, or of one session's.

        Args:
            first: They are looked for for the first time.

        Raises:
            StackError: the tool does not tell.
        """
        ...


class Docker:
    """Containers, and `docker logs`.

    Args:
        log: `docker --host URL logs NAME`, which shows the dispatcher's.
        deployment: The label of the bots' containers.
    """

    def __init__(self, log: Sequence[str], deployment: str) -> None:
        self._log = list(log)
        self._deployment = deployment
        over_ssh = any(word.startswith("ssh://") for word in log)
        self.look_seconds = SSH_LOOK_SECONDS if over_ssh else LOOK_SECONDS

    def dispatcher(self, session: str, *, once: bool) -> Source:
        return Source(DISPATCHER, self._logs(self._log[-1], once=once), session)

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        if not self._deployment:
            return []
        labels = [f"{DEPLOYMENT_LABEL}={self._deployment}"]
        if session:
            labels.append(f"{MACHINE_LABEL}=m-{session}")
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        shown = '{{.Label "' + MACHINE_LABEL + '"}} {{.Names}}'
        listed = _answer([*self._log[:-2], "ps", "--all", *filters, "--format", shown])
        # As on `local`: of a bot that was there before, its lines from now on, unless it is the one that is
        # asked for.
        begin = ["--tail", "0"] if first and not session and not once else []
        pairs = [line.split() for line in listed.splitlines()]
        return [Source(pair[0], self._logs(pair[1], *begin, once=once)) for pair in pairs if len(pair) == 2]

    def _logs(self, name: str, *more: str, once: bool) -> list[str]:
        return [*self._log[:-1], *([] if once else ["--follow"]), *more, name]


class Fly:
    """Apps, and `fly logs`, which begins some lines back and follows by itself."""

    def __init__(self, log: Sequence[str], apps: Sequence[str]) -> None:
        self._log = list(log)
        self._apps = apps
        self.look_seconds = LOOK_SECONDS if apps else math.inf

    def dispatcher(self, session: str, *, once: bool) -> Source:
        return Source(DISPATCHER, _once(self._log, once=once), session)

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        if not session:
            return [Source(app, _once([*self._log[:-1], app], once=once)) for app in self._apps]
        for app in self._apps:
            listed = _answer([self._log[0], "machine", "list", "--app", app, "--json"])
            for machine_id in _machines_at_fly(listed, f"m-{session}"):
                words = [*self._log[:-1], app, "--machine", machine_id]
                return [Source(f"m-{session}", _once(words, once=once))]
        return []


def tool_of(log: str, bots: Sequence[str]) -> Tool:
    """Return the tool that shows a stack's logs.

    Args:
        log: The stack's output `log`, a command.
        bots: The stack's output `bots`.
    """
    words = shlex.split(log)
    if words[0] == "fly":
        return Fly(words, bots)
    return Docker(words, bots[0] if bots else "")


def no_log_of(session: str) -> str:
    """Return the sentence for a session of which there is nothing to show."""
    return (
        f"session {session} has no log on this stack: no line of its dispatcher's names it, and it has no "
        f"machine's. It may be another stack's, or its logs are deleted; `make logs` without SESSION shows "
        f"what goes on, and `GET /v1/sessions/{session}/logs` what the dispatcher kept"
    )


def show_commands(tool: Tool, session: str, say: Callable[[str, str], None], *, once: bool) -> None:
    """Say the lines of the dispatcher and its bots as they come, until the dispatcher's end.

    Raises:
        StackError: a tool cannot be run, or fails; or nothing is there of the session that was named.
    """
    lines: queue.Queue[tuple[str, str]] = queue.Queue(_QUEUED_LINES)
    shown = _Shown(tool, session, say, lines, once=once)
    try:
        shown.look(first=True)
        if session and not shown.bots:
            _show_history(tool, session, lines, say)
        while not shown.step():
            pass
    finally:
        shown.end()


def _show_history(
    tool: Tool, session: str, lines: queue.Queue[tuple[str, str]], say: Callable[[str, str], None]
) -> None:
    """Look whether the dispatcher has a line about a session without a machine: it waits, or is long over.

    Raises:
        StackError: it has none.
    """
    seen = 0
    past = _Running(tool.dispatcher(session, once=True), lines)
    try:
        while past.is_alive() or not lines.empty():
            with contextlib.suppress(queue.Empty):
                lines.get(timeout=POLL_SECONDS)
                seen += 1
        past.check()
    finally:
        past.end()
    if not seen:
        raise StackError(no_log_of(session))
    say(DISPATCHER, "(the session has no machine's log here: it has none yet, or it was deleted)")


class _Shown:
    """Logs that are followed: the dispatcher's, and those of bots as they come and go."""

    def __init__(
        self,
        tool: Tool,
        session: str,
        say: Callable[[str, str], None],
        lines: queue.Queue[tuple[str, str]],
        *,
        once: bool,
    ) -> None:
        self._tool, self._session, self._say, self._lines, self._once = tool, session, say, lines, once
        self._dispatcher: _Running | None = None
        self._seen: set[str] = set()
        """Names of bots that were followed, as long as they are there."""
        self._failed = 0
        self._passed_over = False
        self.bots: dict[str, _Running] = {}

    def look(self, *, first: bool = False) -> None:
        """Follow the bots that are new, as many as there are places for.

        Raises:
            StackError: the tool fails, the first time or again and again.
        """
        try:
            found = self._tool.bots(self._session, first=first, once=self._once)
        except StackError as error:
            self._failed += 1
            if first or self._failed >= MOST_FAILED_LOOKS:
                raise
            self._say(DISPATCHER, f"(no look for new bots: {error})")
            return
        self._failed = 0
        self._seen &= {one.name for one in found}
        for source in found:
            if source.name in self._seen:
                continue
            if len(self.bots) < MOST_FOLLOWED:
                self._seen.add(source.name)
                self.bots[source.name] = _Running(source, self._lines)
            elif not self._passed_over:
                self._passed_over = True
                more = f"({MOST_FOLLOWED} bots are followed at a time; SESSION=… shows one)"
                self._say(DISPATCHER, more)

    def step(self) -> bool:
        """Say what comes until the next look; gives True at the dispatcher's end."""
        if self._dispatcher is None:
            self._dispatcher = _Running(self._tool.dispatcher(self._session, once=self._once), self._lines)
        dispatcher = self._dispatcher
        running = {DISPATCHER: dispatcher, **self.bots}
        look_at = math.inf if self._once else time.monotonic() + self._tool.look_seconds
        while time.monotonic() < look_at and (_any_alive(running) or not self._lines.empty()):
            with contextlib.suppress(queue.Empty):
                self._say(*self._lines.get(timeout=POLL_SECONDS))
            if not self._once and not dispatcher.is_alive() and self._lines.empty():
                break
        if not dispatcher.is_alive() and self._lines.empty():
            dispatcher.check()
            return True
        for name in [name for name, one in self.bots.items() if not one.is_alive()]:
            ended = self.bots.pop(name)
            try:
                ended.check()
            except StackError as error:
                self._say(name, f"(not followed any more: {error})")
            ended.end()
        self.look()
        return False

    def end(self) -> None:
        for one in (*filter(None, [self._dispatcher]), *self.bots.values()):
            one.end()


def _any_alive(running: Mapping[str, _Running]) -> bool:
    return any(one.is_alive() for one in running.values())


class _Running:
    """A command that runs, and a thread that reads it; a full queue holds it up."""

    def __init__(self, source: Source, lines: queue.Queue[tuple[str, str]]) -> None:
        self._source = source
        self._lines = lines
        self._ended = False
        try:
            self._process = subprocess.Popen(
                source.words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise _cannot_run(source.words, error) from error
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def check(self) -> None:
        """Raise StackError if the command failed."""
        if status := self._process.wait():
            raise StackError(f"`{shlex.join(self._source.words)}` ended with status {status}")

    def end(self) -> None:
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        # A child of the tool's may hold its output open.
        self._thread.join(LOOK_SECONDS)

    def _read(self) -> None:
        with self._process.stdout or io.BytesIO() as printed:
            # A bot may print a line that never ends.
            while line := printed.readline(CHUNK):
                text = line.decode(errors="replace").rstrip("\r\n")
                if self._source.only in text:
                    self._put(text)

    def _put(self, text: str) -> None:
        while not self._ended:
            try:
                self._lines.put((self._source.name, text), timeout=LOOK_SECONDS)
            except queue.Full:
                continue
            return


def _once(words: list[str], *, once: bool) -> list[str]:
    return [*words, *(["--no-tail"] if once else [])]


def _answer(words: Sequence[str]) -> str:
    """Return what a command that lists prints. Raises StackError with its last words if it fails."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except OSError as error:
        raise _cannot_run(words, error) from error
    except subprocess.TimeoutExpired:
        raise StackError(f"`{shlex.join(words)}` did not answer within {ASK_SECONDS:.0f} s") from None
    if done.returncode:
        raise StackError(
            f"`{shlex.join(words)}` ended with status {done.returncode}: {done.stderr.strip()[-500:]}"
        )
    return done.stdout


def _cannot_run(words: Sequence[str], error: OSError) -> StackError:
    return StackError(f"{words[0]} cannot be run: {error}; it shows this stack's log")


def _machines_at_fly(listed: str, machine_id: str) -> list[str]:
    """Return Fly's ids of the machines with this id of ours in their metadata."""
    try:
        machines: list[Mapping[str, Any]] = json.loads(listed)
        return [
            str(one["id"])
            for one in machines
            if (one["config"].get("metadata") or {}).get(MACHINE_KEY) == machine_id
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"`fly machine list --json` answers something else: {error!r}") from error
