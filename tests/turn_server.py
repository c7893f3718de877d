"""A real coturn for tests, and somebody who asks it for relays."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from aioice import turn

from tests.patience import PATIENCE


@contextmanager
def coturn(directory: Path, port: int, configuration: Sequence[str]) -> Iterator[None]:
    """Runs while it is entered. Where there is none, the test is skipped."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("there is no `turnserver`: install the package coturn")
    config, log = directory / "turnserver.conf", directory / "turnserver.log"
    config.write_text("\n".join(configuration) + "\n")
    with log.open("wb") as output:
        process = subprocess.Popen([program, "-c", str(config)], stdout=output, stderr=output, cwd=directory)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _listens(port):
            said = log.read_text(errors="replace")
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def relay(port: int, username: str, credential: str) -> turn.TurnTransport:
    """A relay of the server on this port. Raises stun.TransactionFailed if it gives none."""
    transport, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=("127.0.0.1", port),
        username=username,
        password=credential,
    )
    return transport
