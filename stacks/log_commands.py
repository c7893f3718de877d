"""The logs of a stack's dispatcher and bots where a cloud's own tool shows them: `docker`, `fly`."""

from __future__ import annotations

import contextlib
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

from dispatcher.machines.container_body import DEPLOYMENT_LABEL, MACHINE_LABEL
from dispatcher.machines.fly_body import MACHINE_KEY
from stacks.errors import StackError

DISPATCHER = "dispatcher"
MOST_FOLLOWED = 50
"""Bots that are followed at a time: each is a process of the tool."""

LOOK_SECONDS = 1.0
"""Between two looks for bots that are new."""

POLL_SECONDS = 0.1

ASK_SECONDS = 60.0
"""Limit on a call of the tool that only lists."""

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

    def bots(self, session: str, known: set[str], *, once: bool) -> list[Source]:
        """Return what there is of bots, or of one session's.

        Args:
            known: Names of sources that were there at an earlier look.

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

    def dispatcher(self, session: str, *, once: bool) -> Source:
        return Source(DISPATCHER, self._logs(self._log[-1], once=once), session)

    def bots(self, session: str, known: set[str], *, once: bool) -> list[Source]:
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
        begin = [] if session or once or known else ["--tail", "0"]
        pairs = [line.split() for line in listed.splitlines()]
        return [Source(pair[0], self._logs(pair[1], *begin, once=once)) for pair in pairs if len(pair) == 2]

    def _logs(self, name: str, *more: str, once: bool) -> list[str]:
        return [*self._log[:-1], *([] if once else ["--follow"]), *more, name]


class Fly:
    """Apps, and `fly logs`, which begins some lines back and follows by itself."""

    def __init__(self, log: Sequence[str], apps: Sequence[str]) -> None:
        self._log = list(log)
        self._apps = apps

    def dispatcher(self, session: str, *, once: bool) -> Source:
        return Source(DISPATCHER, _once(self._log, once=once), session)

    def bots(self, session: str, known: set[str], *, once: bool) -> list[Source]:
        if not session:
            return [
                Source(app, _once([*self._log[:-1], app], once=once))
                for app in self._apps
                if app not in known
            ]
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
    """The sentence for a session of which there is nothing to show."""
    return (
        f"session {session} has no log on this stack: it has no machine (yet), its log was deleted, or it is "
        f"another stack's; `make logs` without SESSION shows what goes on"
    )


def show_commands(tool: Tool, session: str, say: Callable[[str, str], None], *, once: bool) -> None:
    """Say the lines of the dispatcher and its bots as they come, until the dispatcher's end.

    Raises:
        StackError: a tool cannot be run, or fails; or nothing is there of the session that was named.
    """
    lines: queue.Queue[tuple[str, str]] = queue.Queue(_QUEUED_LINES)
    running: dict[str, _Running] = {}
    passed_over = False
    try:
        bots = tool.bots(session, set(), once=once)
        if session and not bots:
            raise StackError(no_log_of(session))
        known = {DISPATCHER} | {one.name for one in bots}
        first = running[DISPATCHER] = _Running(tool.dispatcher(session, once=once), lines)
        while True:
            for source in bots:
                if len(running) <= MOST_FOLLOWED:
                    running[source.name] = _Running(source, lines)
                elif not passed_over:
                    passed_over = True
                    say(DISPATCHER, f"({MOST_FOLLOWED} bots are followed, and no more; SESSION=… shows one)")
            look_at = math.inf if once else time.monotonic() + LOOK_SECONDS
            while time.monotonic() < look_at and (_any_alive(running) or not lines.empty()):
                with contextlib.suppress(queue.Empty):
                    say(*lines.get(timeout=POLL_SECONDS))
            if not first.is_alive() and lines.empty():
                first.check()
                return
            for name in [name for name, one in running.items() if one is not first and not one.is_alive()]:
                running.pop(name).end()
            found = tool.bots(session, known, once=once)
            bots = [one for one in found if one.name not in known]
            known |= {one.name for one in bots}
    finally:
        for one in running.values():
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
        with self._process.stdout or contextlib.nullcontext([]) as printed:
            for line in printed:
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
