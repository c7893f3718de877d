"""The end of machines: each is asked to end, and made to if it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stacks.fly.api import Fly, FlyError, FlyMisread, mapping, part, rows
from stacks.fly.leases import when_free

GONE = ("destroying", "destroyed", "replaced")
ENDED = ("stopped", "failed", "launch_failed", *GONE)

DELETE_SECONDS = 60

STOP_SECONDS = 45
"""For a machine to end after its SIGTERM: a dispatcher drains for 20 s at the most, gives answers in flight
10 s, and what it does itself 15 s."""

GRACE_SECONDS = 10
"""Between a bot's SIGTERM and its end: it says its last word, and leaves its room."""

AT_ONCE = 16
"""Machines that are being ended. Fly limits the calls for each machine, not for all."""


def machine_path(app: str, machine_id: str | None = None) -> str:
    return "/".join(filter(None, ["apps", part(app), "machines", machine_id and part(machine_id)]))


def machine_at(fly: Fly, path: str) -> dict[str, Any] | None:
    """Return the machine of this path; None if there is none. Raises FlyMisread for another machine."""
    found = mapping(fly.get(path), f"GET {path}", "id", "state")
    if found is not None and part(str(found["id"])) != path.rpartition("/")[2]:
        raise FlyMisread(f"Fly's answer to GET {path} is about another machine, {found['id']}")
    return found


def living(fly: Fly, app: str) -> list[dict[str, Any]]:
    """The machines of an app that are not gone; none if the app is."""
    path = machine_path(app)
    found = rows(fly.get(path), f"GET {path}", "id", "state")
    return [one for one in found if one["state"] not in GONE]


def sweep(fly: Fly, app: str, seconds: int) -> None:
    """End all machines of an app. Raises FlyError, with all that went wrong, once each was tried."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        work = [pool.submit(end, fly, app, machine, seconds) for machine in living(fly, app)]
    failed = [str(error) for one in work if (error := one.exception()) is not None]
    if failed:
        raise FlyError(f"of {len(work)} machines of {app}, {len(failed)} did not end: {'; '.join(failed)}")


def end(fly: Fly, app: str, machine: Mapping[str, Any], seconds: int = STOP_SECONDS) -> None:
    """End a machine: it is asked to, and after `seconds` it is made to. Raises FlyError."""
    path = machine_path(app, machine["id"])

    def ended() -> bool | None:
        found = machine_at(fly, path)
        return True if found is None or found["state"] in ENDED else None

    def gone() -> bool | None:
        found = machine_at(fly, path)
        return True if found is None or found["state"] in ("destroyed", "replaced") else None

    if machine.get("state") not in ENDED:
        term = {"signal": "SIGTERM", "timeout": f"{seconds}s"}
        # It may have ended by itself, or not have booted yet; it is deleted all the same.
        with contextlib.suppress(FlyError):
            when_free(fly, path, lambda: fly.ask("POST", f"{path}/stop", term, repeatable=True) or True)
            # A bot's machine destroys itself when it stops.
            fly.until(f"the machine {machine['id']} did not stop", seconds + 10, ended)
    when_free(fly, path, lambda: fly.delete(path, force="true") or True)
    # Its volume and its app can be deleted only then.
    fly.until(f"the machine {machine['id']} was deleted, and is there still", DELETE_SECONDS, gone)
