"""Ports for servers that are stopped and started again."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

PORTS = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections (ip_local_port_range): while a server is down, a
client that retries could else be given the port itself, and even connect to itself."""

LOCKS = Path(tempfile.gettempdir()) / f"switchboard-test-ports-{os.getuid()}"
"""One byte of this file is locked for each port that a living process of some test run was given."""

_given: set[int] = set()


def free_port() -> int:
    """Return a port that nothing listens at, and that no other process of any test run is given meanwhile."""
    for port in random.sample(PORTS, len(PORTS)):
        if port not in _given and _reserve(port) and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port among {PORTS.start} to {PORTS.stop - 1}")


def _reserve(port: int) -> bool:
    """Lock the port's byte: the kernel gives it back when this process ends, and no child inherits it."""
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _locks() -> int:
    return os.open(LOCKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
