"""A dispatcher whose machines start at once and do nothing: what is left is the dispatcher's own time.

`python -m tests.bench.served` with `SWITCHBOARD_…` variables, as `python -m dispatcher`; with the argument
`heard`, every machine is taken for one that talks on its channel. Bots do so within a second, and the reaper
would ask about those that do not.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from unittest import mock

import uvicorn

from bot.protocol import MAX_MESSAGE_BYTES
from dispatcher.app import build
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.limits import LimitedProtocol
from dispatcher.machines.channels import Channels
from dispatcher.machines.provider import MachineSpec
from dispatcher.server import Server
from dispatcher.settings import Settings


class Instant:
    """A machines API that answers at once."""

    name = "instant"

    def __init__(self) -> None:
        self._running: set[str] = set()

    async def create(self, spec: MachineSpec) -> MachineStatus:
        self._running.add(spec.id)
        return MachineStatus(spec.id, MachineState.started)

    async def get(self, machine_id: str) -> MachineStatus | None:
        # Machines that an earlier run left in the store run on, as it were.
        return MachineStatus(machine_id, MachineState.started)

    async def list(self) -> AsyncIterator[MachineStatus]:
        for machine_id in list(self._running):
            yield MachineStatus(machine_id, MachineState.started)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        self._running.discard(machine_id)


def _just_now(_channels: Channels, _machine_id: str) -> float:
    return time.time()


def main() -> None:
    settings = Settings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    listener = socket.create_server((settings.host, settings.port), backlog=2048)
    dispatcher = build(settings, providers={"process": Instant()})
    config = uvicorn.Config(
        dispatcher.app,
        http=LimitedProtocol,
        log_config=None,
        access_log=False,
        ws_max_size=MAX_MESSAGE_BYTES,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    heard = mock.patch.object(Channels, "last_heard", _just_now)
    with heard if sys.argv[1:] == ["heard"] else contextlib.nullcontext():
        server = Server(config, on_drain=dispatcher.drain, on_exit=dispatcher.refuse, drain_seconds=0)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
