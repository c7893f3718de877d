"""`python -m dispatcher` serves; `python -m dispatcher stop-machines` ends every machine of this data_dir.

`python -m dispatcher new-key` makes a key for callers.

Settings come from `SWITCHBOARD_…` environment variables. SIGTERM and SIGINT end the dispatcher and leave
live bots alone: they are processes of their own and reconnect to the next dispatcher.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import fcntl
import logging
import signal
import socket
import sys
from typing import IO

import uvicorn
from alembic.util import CommandError
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy.exc import DBAPIError

from bot.protocol import MAX_MESSAGE_BYTES
from dispatcher import new_key
from dispatcher.app import Dispatcher, build
from dispatcher.limits import LimitedProtocol
from dispatcher.server import Server, once_free
from dispatcher.sessions.lifecycle import End
from dispatcher.settings import ENVIRONMENT_PREFIX, Settings
from dispatcher.signing import InvalidSecret
from dispatcher.telemetry import export, logs
from dispatcher.telemetry.export import InvalidExport

log = logging.getLogger(__name__)

LISTEN_BACKLOG = 2048
"""Uvicorn's own default."""

SHUTDOWN_SECONDS = 10
"""How long answers in flight may take once the dispatcher was told to exit."""


def main() -> int:
    """Run the command line; gives the exit status."""
    if sys.argv[1:2] == ["new-key"]:
        return new_key.command(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m dispatcher", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "stop-machines", "new-key"], default="serve")
    command = parser.parse_args().command
    try:
        settings = Settings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    except ValidationError as error:
        return _fail("; ".join(_in_words(dict(item)) for item in error.errors()))
    except SettingsError as error:
        # Its text names the field, and not the value, which may be a secret.
        return _fail(f"{error}; allowed: JSON")
    logs.configure(settings.log_level, settings.log_lines)
    try:
        if command == "stop-machines":
            return 0 if asyncio.run(stop_machines(build(settings))) else 1
        return serve(settings)
    except InvalidExport as error:
        return _fail(str(error))
    except StoreUnusable as error:
        log.debug("the store cannot be used", exc_info=error)
        return _fail(f"{'database_url' if settings.database_url else 'data_dir'}: {error}")


def serve(settings: Settings) -> int:
    """Serve until told to exit."""
    try:
        listener = _listen(settings)
    except OSError as error:
        reason = (
            "is taken by another program"
            if error.errno == errno.EADDRINUSE
            else f"cannot be bound ({error.strerror})"
        )
        return _fail(f"port: {settings.port} on {settings.host} {reason}; allowed: any free port")
    try:
        lock = _lock(settings)
        dispatcher = build(settings)
    except (OSError, InvalidSecret) as error:
        return _fail(f"data_dir: {settings.data_dir} cannot be used: {error}")
    # Before the server does it, which would tell of a failure with a traceback.
    asyncio.run(_open_store(dispatcher))
    server = Server(
        uvicorn.Config(
            dispatcher.app,
            http=LimitedProtocol,
            log_config=None,
            access_log=settings.log_level == "debug",
            ws_max_size=MAX_MESSAGE_BYTES,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            server_header=False,
        ),
        on_exit=dispatcher.refuse,
    )
    # Uvicorn raises the signal that ended it once more when all is done: that is a good end, not a death.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    log.info("serving %s as replica %s", settings.url, dispatcher.replica)
    with lock:
        server.run(sockets=[listener])
    return 0 if server.started else 1


async def stop_machines(dispatcher: Dispatcher) -> bool:
    """End every machine, and close what sessions they had, whether or not a dispatcher runs.

    False if a machine could not be ended; all others were.
    """
    end = End("stopped", "The deployment was taken down.")
    await _open_store(dispatcher)
    try:
        running = [
            (placement, status.id)
            for placement in dispatcher.fleet.placements
            async for status in dispatcher.fleet.list(placement)
        ]
        ended = await asyncio.gather(*(_stop_one(dispatcher, *machine, end) for machine in running))
        for session in await dispatcher.store.live_sessions():
            await dispatcher.releases.close(session, end, "the operator")
        await dispatcher.background.settle()
    finally:
        await dispatcher.store.close()
        if dispatcher.spans is not None:
            await export.close(dispatcher.spans)
    return all(ended)


class StoreUnusable(Exception):
    """The database cannot be reached, opened or migrated; in one line, without the URL's password."""


async def _open_store(dispatcher: Dispatcher) -> None:
    try:
        await dispatcher.store.open()
    except (DBAPIError, CommandError, OSError) as error:
        await dispatcher.store.close()
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise StoreUnusable(
            f"the store cannot be used: {logs.masked(' '.join(str(reason).split()))}"
        ) from error


async def _stop_one(dispatcher: Dispatcher, placement: str, machine_id: str, end: End) -> bool:
    log.info("stopping machine %s", machine_id)
    try:
        await dispatcher.releases.release(machine_id, end.message, placement)
    except Exception:
        log.exception("machine %s could not be ended", machine_id)
        return False
    return True


def _lock(settings: Settings) -> IO[bytes]:
    """Hold the data directory until the file is closed: two reapers would end each other's machines.

    Replicas on one host share it, with the machines that run there: their reaper is found in the database.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock = (settings.data_dir / "lock").open("ab")
    kind = fcntl.LOCK_SH if settings.has_replicas else fcntl.LOCK_EX
    try:
        once_free(lambda: fcntl.flock(lock, kind | fcntl.LOCK_NB))
    except BlockingIOError:
        lock.close()
        raise OSError("another dispatcher uses it") from None
    return lock


def _listen(settings: Settings) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        once_free(lambda: listener.bind(address))
        listener.listen(LISTEN_BACKLOG)  # now, or another dispatcher could still bind the port
    except OSError:
        listener.close()
        raise
    return listener


def _in_words(item: dict) -> str:
    name = ".".join(str(part) for part in item["loc"])
    variable = f"{ENVIRONMENT_PREFIX}{name.upper()}" if "." not in name else name
    if item["type"] == "missing":
        return f"{variable} is not set"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{variable}: {message}" if name else message


def _fail(message: str) -> int:
    print(f"dispatcher: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
