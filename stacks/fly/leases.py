"""Leases: while one is held, Fly lets nobody else change the machine.

A lease is short and is renewed as long as its run lives, so that a run that is killed blocks the next one for
a minute at most. Its description names the process that holds it: a later run on the same system takes over
the lease of a process that has ended, and tells of every other one whom it waits for.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from stacks.fly.api import Fly, FlyError, FlyRefused, FlyUnanswered
from stacks.progress import notice
from stacks.shared import process
from stacks.shared.process import Identity

T = TypeVar("T")

LEASE_HEADER = "fly-machine-lease-nonce"

LEASE_SECONDS = 60
RENEW_SECONDS = 20

WAIT_SECONDS = 360
"""For somebody else's lease. Their update may take as long as a machine's start and the way back."""

TELL_SECONDS = 10
"""Between two lines that say whom a run waits for."""

CONFLICT = 409
"""Fly's answer to a call on a machine whose lease is somebody else's."""

HOLDER = re.compile(r"switchboard: process (\d+) of (\S+) since \S+ \[(\S+) (\S+)\]")


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease of ours, as the lease's description names it."""

    host: str
    system: str
    """The boot and the process namespace in which the process id means this process."""
    identity: Identity

    @classmethod
    def this_process(cls) -> Holder:
        found = process.identify(os.getpid())
        if found is None:
            raise RuntimeError("this process is not in the process table")
        return cls(socket.gethostname(), _system(), found)

    @classmethod
    def parse(cls, description: str) -> Holder | None:
        """Return the holder that a description names; None if the lease is not one of ours."""
        found = HOLDER.fullmatch(description)
        if found is None:
            return None
        return cls(found[2], found[3], Identity(int(found[1]), found[4]))

    def __str__(self) -> str:
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        pid, started = self.identity.pid, self.identity.started
        return f"switchboard: process {pid} of {self.host} since {since} [{self.system} {started}]"

    @property
    def ended(self) -> bool:
        """Tell whether the process has certainly ended: it ran on this very system, and is not there."""
        here = (self.host, self.system) == (socket.gethostname(), _system()) and self.system != UNKNOWN_SYSTEM
        return here and not process.alive(self.identity)


UNKNOWN_SYSTEM = "-"
"""Where a system does not name its boot and its process namespace, no process is known to have ended."""


def _system() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return UNKNOWN_SYSTEM


@contextlib.contextmanager
def lease(fly: Fly, path: str) -> Iterator[Mapping[str, str]]:
    """Hold a machine's lease; yield the header that calls of its holder carry.

    Raises:
        FlyRefused: somebody else holds it for longer than WAIT_SECONDS.
    """
    body = {"ttl": LEASE_SECONDS, "description": str(Holder.this_process())}

    def take() -> Any:
        try:
            return fly.ask("POST", f"{path}/lease", body)
        except FlyUnanswered:
            # If it was given, nobody knows its nonce. The next look reads it: the description is ours.
            return None

    held = {LEASE_HEADER: _nonce(path, when_free(fly, path, take))}
    over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(fly, path, body, held, over), daemon=True)
    renewal.start()
    try:
        yield held
    finally:
        over.set()
        renewal.join()
        fly.delete(f"{path}/lease", headers=held)


def _renew(
    fly: Fly, path: str, body: Mapping[str, Any], held: Mapping[str, str], over: threading.Event
) -> None:
    while not over.wait(RENEW_SECONDS):
        # A renewal that fails is tried again; without any the lease ends, and the next call says so.
        with contextlib.suppress(FlyError):
            fly.ask("POST", f"{path}/lease", body, headers=held, repeatable=True)


def when_free(fly: Fly, path: str, act: Callable[[], T | None]) -> T:
    """Return what `act` gives, once nobody else holds the machine. Raises FlyRefused after WAIT_SECONDS."""
    told = -float(TELL_SECONDS)
    last = "nobody that Fly names"

    def once() -> T | None:
        nonlocal told, last
        try:
            return act()
        except FlyRefused as error:
            if error.status != CONFLICT:
                raise
        found = _shown(fly, path)
        if found is None:
            return None
        holder = Holder.parse(str(found.get("description") or ""))
        if holder is not None and (holder.ended or holder.identity == Holder.this_process().identity):
            _take_over(fly, path, found, holder)
            return None
        last = _told(found)
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            notice(f"waiting for the lease of {path}, held by {last}")
        return None

    try:
        return fly.until(f"the lease of {path} did not come free", WAIT_SECONDS, once)
    except FlyRefused as error:
        if error.status:
            raise
        raise FlyRefused(f"{error}: it is held by {last}; `fly machine leases clear` takes it away") from None


def _shown(fly: Fly, path: str) -> Mapping[str, Any] | None:
    """Return the lease of a machine; None if it has none, or Fly shows none."""
    try:
        answer = fly.get(f"{path}/lease")
    except FlyRefused as error:
        if error.status == CONFLICT:
            return None
        raise
    # In an envelope, says the documentation; without, says the description.
    data = answer.get("data", answer) if isinstance(answer, Mapping) else None
    return data if isinstance(data, Mapping) else None


def _take_over(fly: Fly, path: str, found: Mapping[str, Any], holder: Holder) -> None:
    """End the lease of a process of ours that has ended, as its holder would have done."""
    nonce = found.get("nonce")
    if not isinstance(nonce, str) or not nonce:
        return
    notice(f"taking over the lease of {path}: process {holder.identity.pid}, which held it, has ended")
    with contextlib.suppress(FlyRefused):  # it ended by itself meanwhile; the next try tells
        fly.delete(f"{path}/lease", headers={LEASE_HEADER: nonce})


def _told(found: Mapping[str, Any]) -> str:
    until = found.get("expires_at")
    when = datetime.fromtimestamp(until, UTC).strftime("%H:%M:%S UTC") if isinstance(until, int) else "?"
    # The part in brackets is for programs.
    reason = str(found.get("description") or "no reason given").partition(" [")[0]
    return f"{found.get('owner') or 'somebody'} ({reason}) until {when}"


def _nonce(path: str, answer: Any) -> str:
    data = answer.get("data", answer) if isinstance(answer, Mapping) else None
    nonce = data.get("nonce") if isinstance(data, Mapping) else None
    if not isinstance(nonce, str) or not nonce:
        raise FlyRefused(f"Fly's answer to POST {path}/lease has no nonce: {str(answer)[:200]}")
    return nonce
