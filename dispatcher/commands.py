"""The commands of `python -m dispatcher`, once the settings are known: serve, or stop every machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import resource
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import uvicorn
from sqlalchemy.exc import DBAPIError

from bot.protocol import MAX_MESSAGE_BYTES
from dispatcher.addresses import is_loopback
from dispatcher.admissions import Admissions
from dispatcher.app import Dispatcher, build
from dispatcher.channel_socket import counted
from dispatcher.clock import SystemClock
from dispatcher.configured import check_accounts, context_of, providers_of
from dispatcher.disk import in_words, why_not
from dispatcher.domain.model import End
from dispatcher.limits import limited
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import ProviderError
from dispatcher.machines.settings import HostNotice
from dispatcher.server import Server, once_free
from dispatcher.sessions.terminator import STOP_GRACE
from dispatcher.settings import Settings
from dispatcher.store.migrate import NotMigrated
from dispatcher.telemetry import export, logs
from dispatcher.tokens import InvalidSecret

log = logging.getLogger(__name__)

LISTEN_BACKLOG = 2048
"""Uvicorn's own default."""

SHUTDOWN_SECONDS = 10
"""Grace for answers in flight once the dispatcher was told to exit."""


DESCRIPTORS = 65536
"""File descriptors that a dispatcher asks for: one per connection. Systems give 1,024 by default, for
programs that use `select`, and more on request."""


PRIVATE_UMASK = 0o077
"""Umask: only the dispatcher's user may read the files it makes, however it was started."""


class Unusable(Exception):
    """A setting names something unusable. The text begins with the setting's name."""


def serve(settings: Settings) -> int:
    """Serve until told to exit; return the exit status.

    Raises:
        Unusable: the port, the directory, the database, or an account of a transport.
        InvalidExport: an `OTEL_…` variable.
    """
    os.umask(PRIVATE_UMASK)
    descriptors = _raise_descriptor_limit()
    notices = _check_host(settings)
    with _listener(settings) as listener, contextlib.ExitStack() as held:
        with _data_dir(settings):
            held.enter_context(_lock(settings))
            dispatcher = build(settings)
        # Before the server does it, which would report a failure with a traceback.
        asyncio.run(_open_store(dispatcher))
        if wrong := asyncio.run(check_accounts(settings, SystemClock())):
            raise Unusable(wrong)
        admissions = Admissions(descriptors, dispatcher.metrics.connection_refused)
        server = Server(
            uvicorn.Config(
                dispatcher.app,
                http=limited(admissions),
                ws=counted(admissions),
                log_config=None,
                access_log=settings.log_level == "debug",
                ws_max_size=MAX_MESSAGE_BYTES,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                server_header=False,
            ),
            drain_seconds=settings.drained_seconds,
            on_drain=dispatcher.drain,
            on_exit=dispatcher.refuse,
        )
        # Uvicorn re-raises the signal when it is done; the exit is a success, not a death by signal.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        for notice in notices:
            log.log(notice.level, "%s", notice.text)
        log.info("serving %s as replica %s", settings.url, dispatcher.replica)
        server.run(sockets=[listener])
    return 0 if server.started else 1


def _check_host(settings: Settings) -> list[HostNotice]:
    """Check that this host has what the placements' providers need. Return the notes for the log.

    Raises:
        Unusable: The host lacks something.
    """
    notices: list[HostNotice] = []
    is_this_host = is_loopback(settings.host) or settings.host in ("0.0.0.0", "::")  # noqa: S104
    for name, placement in settings.placements.items():
        if placement.on_other_hosts and is_this_host and not (settings.machine_url or placement.machine_url):
            raise Unusable(
                f"SWITCHBOARD_MACHINE_URL: is not set, and machines of placement '{name}' run on other "
                "hosts, where they would look for the dispatcher at 127.0.0.1; allowed: a URL at which they "
                "reach it, here or as the placement's machineUrl"
            )
        try:
            notices += placement.check_host(context_of(settings, name, SystemClock()))
        except ValueError as error:
            raise Unusable(str(error)) from error
    return notices


def _raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors as far as the hard one allows. Return how many to use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # macOS has a bound of its own below the hard limit
        log.warning("the limit of %d file descriptors cannot be raised to %d: %s", soft, wanted, error)
        return soft
    return wanted


def stop_machines(settings: Settings) -> int:
    """Stop every machine and close its session, whether or not a dispatcher runs.

    Return the exit status: 1 if a machine could not be stopped; all others were.

    Raises:
        Unusable: the directory or the database.
        InvalidExport: an `OTEL_…` variable.
    """
    try:
        with _data_dir(settings):
            dispatcher = build(settings)
        return 0 if asyncio.run(_stop_machines(dispatcher)) else 1
    except Unusable as error:
        # The providers can list their machines without the store.
        if ended := asyncio.run(_stop_without_store(settings)):
            raise Unusable(f"{error} (stopped nevertheless: {', '.join(ended)})") from error
        raise


async def _stop_machines(dispatcher: Dispatcher) -> bool:
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
            await dispatcher.terminator.close(session, end, "the operator")
        await dispatcher.background.settle()
    finally:
        await dispatcher.store.close()
        if dispatcher.spans is not None:
            await export.close(dispatcher.spans)
    return all(ended)


async def _stop_without_store(settings: Settings) -> list[str]:
    """Stop the machines that the providers list. Return the ids of the stopped ones."""
    fleet = Fleet(providers_of(settings, SystemClock()), SystemClock(), lambda _: None)
    ended: list[str] = []
    try:
        for placement in fleet.placements:
            try:
                running = [status.id async for status in fleet.list(placement)]
                for machine_id in running:
                    log.info("stopping machine %s", machine_id)
                    await fleet.stop(placement, machine_id, STOP_GRACE)
                    ended.append(machine_id)
            except ProviderError as error:
                log.warning("placement %s: machines may still run: %s", placement, error)
    finally:
        await fleet.close()
    return ended


async def _open_store(dispatcher: Dispatcher) -> None:
    """Open the store and write to it once, as a read-only store is useless.

    Raises:
        Unusable: It cannot be used.
    """
    try:
        await dispatcher.store.open()
        await dispatcher.store.ping()
    except (DBAPIError, NotMigrated, OSError) as error:
        await dispatcher.store.close()
        reason = error.orig if isinstance(error, DBAPIError) else error
        setting = "database_url" if dispatcher.settings.database_url else "data_dir"
        # In one line, and without the URL's password.
        words = logs.masked(" ".join(str(reason).split()))
        file = dispatcher.store.file
        if file is not None and (why := why_not(file.parent)):
            words += f": {why}"
        raise Unusable(f"{setting}: the store cannot be used: {words}") from error


async def _stop_one(dispatcher: Dispatcher, placement: str, machine_id: str, end: End) -> bool:
    log.info("stopping machine %s", machine_id)
    try:
        await dispatcher.terminator.terminate(machine_id, end.message, placement)
    except Exception:
        log.exception("machine %s could not be ended", machine_id)
        return False
    return True


@contextlib.contextmanager
def _data_dir(settings: Settings) -> Iterator[None]:
    """Report an error in the data directory under the setting's name."""
    try:
        yield
    except (OSError, InvalidSecret) as error:
        words = in_words(error) if isinstance(error, OSError) else str(error)
        raise Unusable(f"data_dir: {settings.data_dir} cannot be used: {words}") from error


def _lock(settings: Settings) -> IO[bytes]:
    """Lock the data directory until the file is closed: two reapers would stop each other's machines.

    Replicas on one host share the lock, with the machines that run there; the database elects their reaper.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    _close_to_others(settings.data_dir)
    lock = (settings.data_dir / "lock").open("ab")
    kind = fcntl.LOCK_SH if settings.has_replicas else fcntl.LOCK_EX
    try:
        once_free(lambda: fcntl.flock(lock, kind | fcntl.LOCK_NB))
    except BlockingIOError:
        lock.close()
        raise OSError("another dispatcher uses it") from None
    return lock


def _close_to_others(data_dir: Path) -> None:
    """Take from others the read permission that an earlier release gave them: to the store, logs and keys."""
    for path in (data_dir, *(one for one in data_dir.iterdir() if one.is_file() and not one.is_symlink())):
        if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o066 and path.stat().st_uid == os.geteuid():
            path.chmod(mode & ~0o066)


def _listener(settings: Settings) -> socket.socket:
    """Return a socket that listens on the port.

    Raises:
        Unusable: the port is taken or not allowed.
    """
    try:
        return _listen(settings)
    except OSError as error:
        reason = (
            "is taken by another program"
            if error.errno == errno.EADDRINUSE
            else f"cannot be bound ({error.strerror})"
        )
        raise Unusable(
            f"port: {settings.port} on {settings.host} {reason}; allowed: any free port"
        ) from error


def _listen(settings: Settings) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        once_free(lambda: listener.bind(address))
        listener.listen(LISTEN_BACKLOG)  # now, else another dispatcher could still bind the port
    except OSError:
        listener.close()
        raise
    return listener
