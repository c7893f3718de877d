"""Bring a server process up, and know whether it is well. Both answers come from the process itself.

What a "server" is here: a command that listens on one port of this host and answers `GET /healthz` and
`GET /readyz` with 200 once it is fit for work.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stacks.errors import ProcessError
from stacks.shared import process
from stacks.shared.process import Identity

HEALTH_PATHS = ("/healthz", "/readyz")
# On loopback an answer takes milliseconds; a server that needs longer than this is not well.
ANSWER_SECONDS = 2.0
TAIL_LINES = 20


@dataclass(frozen=True)
class Server:
    """A server's start, and the address where it answers."""

    command: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    log: Path
    host: str
    port: int
    start_timeout_seconds: float
    stop_grace_seconds: float


def start(server: Server) -> Identity:
    """Start it, return once it is healthy. Raises ProcessError with its log's tail; nothing is left then."""
    if not process.port_free(server.host, server.port):
        raise ProcessError(port_taken(server.port))
    server.log.parent.mkdir(parents=True, exist_ok=True)
    begin = server.log.stat().st_size if server.log.exists() else 0
    try:
        identity = process.spawn(server.command, server.cwd, server.environment, server.log)
    except OSError as error:
        raise ProcessError(f"{server.command[0]} cannot be run: {error.strerror}") from error
    try:
        problem = _wait_healthy(identity, server)
    except BaseException:
        process.stop(identity, server.stop_grace_seconds)
        raise
    if problem is None:
        return identity
    process.stop(identity, server.stop_grace_seconds)
    raise ProcessError(f"{problem}; the end of {server.log}:\n{tail(server.log, begin)}")


def _wait_healthy(identity: Identity, server: Server) -> str | None:
    """None once it is healthy; else what is wrong."""
    deadline = time.monotonic() + server.start_timeout_seconds
    while process.alive(identity):
        if healthy(identity, server.host, server.port):
            return None
        if time.monotonic() >= deadline:
            return f"the dispatcher did not answer within {server.start_timeout_seconds:.0f} s of its start"
        time.sleep(process.POLL_SECONDS)
    return "the dispatcher ended while it started"


def healthy(identity: Identity, host: str, port: int) -> bool:
    """Return True if this process, and no other that has the port, says that it is alive and ready."""
    if not process.alive(identity) or not process.listens(identity.pid, port):
        return False
    return all(_status(host, port, path) == 200 for path in HEALTH_PATHS)


def _status(host: str, port: int, path: str) -> int | None:
    # Not urllib: it would send even this through a proxy that the environment names.
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def tail(log: Path, begin: int = 0, lines: int = TAIL_LINES) -> str:
    """The last lines that were written to `log` after the byte `begin`."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace").strip()
    return "\n".join(text.splitlines()[-lines:]) or "(nothing was written)"


def port_taken(port: int) -> str:
    """The sentence for a port that another program has."""
    holder = process.holder(port)
    by = process.describe(holder) if holder else "a process of another user"
    return (
        f"switchboard:port: {port} is taken by {by}; allowed: a free port, 1 to 65535 "
        "(`make up PORT=…` for once, or the stack's file)"
    )
