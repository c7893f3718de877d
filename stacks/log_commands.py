"""The logs of a stack's dispatcher and bots where a cloud's own tool shows them."""

from __future__ import annotations

import contextlib
import io
import math
import queue
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from stacks import clouds
from stacks.errors import StackError
from stacks.log_sources import DISPATCHER, LOOK_SECONDS, Source, Tool, cannot_run

MOST_FOLLOWED = 50
"""Bots that are followed at a time: each is a process of the tool."""

POLL_SECONDS = 0.1

CHUNK = 64 * 1024
"""Longest part of a line that is shown at once."""

MOST_FAILED_LOOKS = 5
"""Looks for new bots that may fail one after the other: an ssh connection breaks now and then."""

_QUEUED_LINES = 1000


def tool_of(
    log: str,
    bots: Sequence[str],
    elsewhere: Mapping[str, Sequence[str]] | None = None,
    say: Callable[[str, str], None] = lambda _source, _line: None,
) -> Tool:
    """Return the tool that shows a stack's logs.

    Args:
        log: The stack's output `log`, a command.
        bots: The stack's output `bots`.
        elsewhere: The stack's output `botsElsewhere`.
        say: Told of bots elsewhere that cannot be shown.
    """
    words = shlex.split(log)
    every = clouds.importable()
    own = next((tool for cloud in every.values() if (tool := cloud.logs(words, bots)) is not None), None)
    if own is None:
        raise StackError(f"no cloud that is installed shows logs by `{words[0]}`")
    others: dict[str, Tool] = {}
    for name, names in (elsewhere or {}).items():
        tool = every[name].bot_logs(names) if name in every else None
        if tool is not None:
            others[name] = tool
        else:
            say(
                DISPATCHER,
                f"(bots at {name} are not shown: use that cloud's own tool for {', '.join(names)})",
            )
    return Together(own, others, say) if others else own


class Together:
    """The tool of a stack's host, with the bots that other tools show.

    Bots that one of these cannot show are said to be missing, once: the rest is shown without them.
    """

    def __init__(self, own: Tool, others: Mapping[str, Tool], say: Callable[[str, str], None]) -> None:
        self._own, self._others, self._say = own, dict(others), say
        self.look_seconds = min(own.look_seconds, *(one.look_seconds for one in others.values()))

    def dispatcher(self, session: str, *, once: bool) -> Source:
        return self._own.dispatcher(session, once=once)

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        found = self._own.bots(session, first=first, once=once)
        for name, tool in list(self._others.items()):
            try:
                there = tool.bots(session, first=first, once=once)
                for source in there:
                    _refuse_missing(source.words[0])
            except StackError as error:
                del self._others[name]
                self._say(DISPATCHER, f"(bots at {name} are not shown: {error})")
            else:
                found += there
        return found


def _refuse_missing(command: str) -> None:
    if shutil.which(command) is None:
        raise StackError(f"`{command}` is not on PATH")


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
            raise cannot_run(source.words, error) from error
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
