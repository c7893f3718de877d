"""The leader of a machine that is a process group: it starts the bot, and ends all that the bot started.

`python -I -S bot/leader.py switchboard-machine ID DIRECTORY` starts a machine from nothing, and reads its
order from standard input: JSON with the members of `_Order`. A template forks its machines' leaders.

The leader adopts every process that the bot starts and leaves behind (Linux), whatever its group, session and
environment, so that nothing outlives the leader. It imports the standard library alone: one runs for each
machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bot.confinement import Confinement, adopt_orphans, confine
from bot.output import Child, Output, keep

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals passed on to the whole group; the leader survives them."""

END_SIGNAL = signal.SIGUSR1
"""Signal that makes a leader kill its bot, with all that the bot started."""

END_USER = "end-user"
"""Replaces the leader's name on the command line: kill every process of the user whose id follows."""

SWEEP_SECONDS = 10.0
"""Limit on ending what a bot left behind; after that the provider takes over."""


@dataclass(frozen=True)
class _Order:
    command: list[str]
    memory_kib: int
    cpu_seconds: int
    confinement: Confinement


def begin(directory: Path, user: int | None, run: Callable[[], NoReturn], settle: Callable[[], None]) -> str:
    """Fork a leader, and wait until its machine is on record. Return the error; empty if there was none.

    Args:
        user: The machine's own user.
        run: Becomes the bot, in a process of its own.
        settle: Called in the leader first.
    """
    done, tell = os.pipe()
    try:
        if os.fork() == 0:
            os.close(done)
            _lead(directory, user, tell, run, settle)
    except OSError as error:
        os.close(done)
        os.close(tell)
        return str(error)
    os.close(tell)
    with open(done) as told:
        said = told.read()
    return "" if said == "ok" else said or "the machine's leader died at once"


def limit(kind: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # a limit that the system refuses is left out
        resource.setrlimit(kind, (value, value))


def _lead(
    directory: Path, user: int | None, tell: int, run: Callable[[], NoReturn], settle: Callable[[], None]
) -> NoReturn:
    try:
        os.setsid()
        settle()
        adopt_orphans()
        for number in FORWARDED:
            signal.signal(number, lambda *_: None)
        printed, write = os.pipe()
        output, child = Output(directory), Child()
        signal.signal(END_SIGNAL, lambda *_: child.end())
        # Recorded before it runs: a machine without a record could never be stopped.
        (directory / "pid").write_text(f"{os.getpid()} {os.getpgrp()}\n")
        bot = os.fork()
        if bot == 0:
            _become_bot(tell, printed, write, output, child, run)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.close(write)
        os.write(tell, b"ok")
    except OSError as error:
        os.write(tell, str(error).encode())
        os._exit(1)
    os.close(tell)
    status = keep(printed, output, bot, child)
    _end_all(user)
    with contextlib.suppress(OSError):  # without it, nobody knows how the bot ended
        _record_exit(directory, os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become_bot(
    tell: int, printed: int, write: int, output: Output, child: Child, run: Callable[[], NoReturn]
) -> NoReturn:
    try:
        os.close(tell)
        os.close(printed)
        output.close()
        child.forget()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(nothing)
        os.close(write)
        for number in (*FORWARDED, END_SIGNAL):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    finally:
        os._exit(1)


def _record_exit(directory: Path, status: int) -> None:
    """Write the exit status, and replace whatever the bot put in its place: opening a FIFO would block the
    leader."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(directory / "exit")
    with open(directory / "exit", "x") as file:
        file.write(f"{status if status >= 0 else 128 - status}\n")


def _end_all(user: int | None) -> None:
    """Kill whatever the bot left running.

    All are stopped before the first is killed: a stopped process cannot fork, and keeps its slot in the
    process table, which a fork bomb would fill again.
    """
    limit_at = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < limit_at:
        if user is not None:
            end_user(user)
        stopped: set[int] = set()
        while (fresh := descendants(os.getpid()) - stopped) and time.monotonic() < limit_at:
            _signal(fresh, signal.SIGSTOP)
            stopped |= fresh
        _signal(stopped, signal.SIGKILL)
        if not _reap():
            return


def end_user(user: int) -> None:
    """Kill every process of a machine's own user, in one call: none can fork meanwhile. Needs root."""
    if (killer := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(killer, 0)


def descendants(ancestor: int) -> set[int]:
    """Return this process's living descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has exited meanwhile
                state, parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    look_at = [ancestor]
    while look_at:
        fresh = [pid for pid in children.get(look_at.pop(), []) if pid not in found]
        found.update(fresh)
        look_at += fresh
    return found


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap() -> bool:
    """Reap children that have exited. Return True if one still lives."""
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                time.sleep(0.001)  # what was killed takes a moment to die
                return True
    except ChildProcessError:
        return False


def main() -> int:
    """Start a machine from nothing and return 0 once it is on record, or kill all processes of a machine's
    user."""
    if sys.argv[1] == END_USER:
        end_user(int(sys.argv[2]))
        return 0
    directory = Path(sys.argv[3])
    found = json.load(sys.stdin)
    order = _Order(**{**found, "confinement": Confinement(**found["confinement"])})

    def run() -> NoReturn:
        try:
            limit(resource.RLIMIT_CORE, 0)
            limit(resource.RLIMIT_DATA, order.memory_kib * 1024)
            limit(resource.RLIMIT_CPU, order.cpu_seconds)
            confine(order.confinement)
            os.execv(order.command[0], order.command)  # noqa: S606 - without a shell, and as the provider says
        except OSError as error:
            os.write(2, f"{order.command[0]}: {error}\n".encode())
        os._exit(127)

    if wrong := begin(directory, order.confinement.user, run, lambda: None):
        print(wrong, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
