"""Logs of apps, by `fly logs`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dispatcher.machines.fly.request import MACHINE_KEY
from stacks.errors import StackError
from stacks.log_sources import DISPATCHER, LOOK_SECONDS, Source, answer, once_only


class FlyLogs:
    """Apps, and `fly logs`, which begins some lines back and follows by itself."""

    def __init__(self, log: Sequence[str], apps: Sequence[str]) -> None:
        self._log = list(log)
        self._apps = apps
        self.look_seconds = LOOK_SECONDS if apps else math.inf

    def dispatcher(self, session: str, *, once: bool) -> Source:
        return Source(DISPATCHER, once_only(self._log, once=once), session)

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        if not session:
            return [Source(app, once_only([*self._log[:-1], app], once=once)) for app in self._apps]
        for app in self._apps:
            listed = answer([self._log[0], "machine", "list", "--app", app, "--json"])
            for machine_id in _machines_at_fly(listed, f"m-{session}"):
                words = [*self._log[:-1], app, "--machine", machine_id]
                return [Source(f"m-{session}", once_only(words, once=once))]
        return []


def _machines_at_fly(listed: str, machine_id: str) -> list[str]:
    """Return Fly's ids of the machines with this id of ours in their metadata."""
    try:
        machines: list[Mapping[str, Any]] = json.loads(listed)
        return [
            str(one["id"])
            for one in machines
            if (one["config"].get("metadata") or {}).get(MACHINE_KEY) == machine_id
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"`fly machine list --json` answers something else: {error!r}") from error
