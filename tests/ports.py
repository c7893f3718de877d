"""Ports for servers that are stopped and started again."""

from __future__ import annotations

import random
import socket

PORTS = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections (ip_local_port_range): while a server is down, a
client that retries could else be given the port itself, and even connect to itself."""


def free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port among {PORTS.start} to {PORTS.stop - 1}")
