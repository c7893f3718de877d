"""Processes of this host: start one detached, know it again, stop it, and never touch another's.

A process is known by its pid and its start time, since the system hands out a pid again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Identity:
    """A process, and no later one with the same pid."""

    pid: int
    started: str
    """When it started, in the system's own terms: only good for comparing."""


def identify(pid: int) -> Identity | None:
    """The identity of a living process; None if there is none. A zombie is dead."""
    started = _started(pid)
    return None if started is None else Identity(pid, started)


def _started(pid: int) -> str | None:
    if sys.platform == "linux":
        # psutil computes the start from the boot time, which moves with the clock; ticks do not.
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name (field 2) may hold spaces and brackets: count from the last bracket; field 3 follows.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None


def alive(identity: Identity) -> bool:
    with contextlib.suppress(ChildProcessError, PermissionError):
        os.waitpid(identity.pid, os.WNOHANG)  # if it is a child of ours, it must not stay a zombie
    return identify(identity.pid) == identity


def spawn(command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path) -> Identity:
    """Start `command` in a session of its own, with its output appended to `log` and no other open file.

    Raises OSError if it cannot be executed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        os.fchmod(output.fileno(), 0o600)  # it has callers' addresses and bots' last words
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
        )
    identity = identify(process.pid)
    # It outlives us on purpose, and `alive` reaps it: Popen must not complain when it is forgotten.
    process.returncode = 0
    return identity or Identity(process.pid, "over before it could be seen")


def stop(identity: Identity, grace_seconds: float) -> bool:
    """SIGTERM, and SIGKILL when `grace_seconds` are over. Whether it needed no SIGKILL."""
    send(identity, signal.SIGTERM)
    if wait_gone(identity, grace_seconds):
        return True
    send(identity, signal.SIGKILL)
    # Only a process that hangs in the kernel survives this; the caller must know of it.
    if not wait_gone(identity, 10.0):
        raise TimeoutError(f"process {identity.pid} does not end after SIGKILL")
    return False


def send(identity: Identity, number: signal.Signals) -> None:
    """Signal this process, and never one that has got its pid since."""
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor names one process for good, so nothing can slip in between check and signal.
            if alive(identity):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
    elif alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def wait_gone(identity: Identity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(identity):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def find(commands: Sequence[Sequence[str]], variable: str, value: str) -> list[Identity]:
    """This user's living processes that run one of `commands` with the environment's `variable` at `value`.

    An engine that is killed between the start of a process and the writing of its state leaves a process that
    no state knows. It is found by what it was started with.
    """
    # The interpreter may replace itself (macOS' framework builds do), so its path is not compared.
    wanted = [list(command)[1:] for command in commands if command]
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if any(line[1:] == one for one in wanted) and process.environ().get(variable) == value:
                found.append(identify(process.pid))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return [identity for identity in found if identity is not None]


def listens(pid: int, port: int) -> bool:
    """Return True if this very process listens on the port."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def port_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server will do it: connections of a server that is gone are not in its way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def holder(port: int) -> psutil.Process | None:
    """The process that listens on the port, if this user may see it."""
    for process in psutil.process_iter():
        if listens(process.pid, port):
            return process
    return None


def describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return f"process {process.pid}"
