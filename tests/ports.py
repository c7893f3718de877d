"""Ports for servers that are stopped and started again."""

from __future__ import annotations

import os
import random
import socket

PORTS = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections (ip_local_port_range): while a server is down, a
client that retries could else be given the port itself, and even connect to itself."""

WORKERS = 16
"""So many of pytest's processes have ports of their own: none is given what another has just found."""


def free_port() -> int:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in random.sample(PORTS[worker % WORKERS :: WORKERS], 100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port among {PORTS.start} to {PORTS.stop - 1}")
