"""Logs of the dispatcher's service and of bots' VMs, from Cloud Logging."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Sequence

from stacks.log_sources import DISPATCHER, LOOK_SECONDS, Source

COMMAND = ("gcloud", "run", "services", "logs", "read")
"""First words of the stack's output `log`; the service's name comes next, and `--project`."""

BOTS = 'log_id("gcplogs-docker-driver")'


def place(project: str, deployment: str) -> str:
    """Return the name of a placement's VMs in the stack's output `bots`."""
    return f"{project}:{deployment}"


class GcpLogs:
    """The dispatcher's lines, and those of each placement's VMs.

    Args:
        words: `gcloud run services logs read SERVICE --project PROJECT …`; empty: a host elsewhere.
        bots: `PROJECT:DEPLOYMENT` of each placement.
    """

    def __init__(self, words: Sequence[str], bots: Sequence[str]) -> None:
        self._words = words
        # A project's id may have a colon, after the domain that it belongs to; a deployment has none.
        self._bots = [
            (project, deployment) for project, _, deployment in (one.rpartition(":") for one in bots)
        ]
        self.look_seconds = LOOK_SECONDS if bots else math.inf

    def dispatcher(self, session: str, *, once: bool) -> Source:
        project = next(value for key, value in itertools.pairwise(self._words) if key == "--project")
        service = self._words[len(COMMAND)]
        wanted = f'resource.type="cloud_run_revision" AND resource.labels.service_name={json.dumps(service)}'
        if session:
            wanted += f" AND {json.dumps(session)}"
        return _source(DISPATCHER, project, wanted, session, once=once)

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        if not session:
            return [
                _source(deployment, project, _of_vms(f"{deployment}-m-"), "", "--vms", once=once)
                for project, deployment in self._bots
            ]
        found = []
        for number, (project, deployment) in enumerate(self._bots):
            name = f"m-{session}" if number == 0 else f"m-{session} {deployment}"
            found.append(_source(name, project, _of_vms(f"{deployment}-m-{session}"), session, once=once))
        return found


def _of_vms(begin: str) -> str:
    return f'{BOTS} AND jsonPayload.instance.name=~"^{begin}"'


def _source(name: str, project: str, wanted: str, session: str, *more: str, once: bool) -> Source:
    words = [sys.executable, "-m", "stacks.gcp.tail", "--project", project, "--filter", wanted]
    of_session = ["--session"] if session else []
    return Source(name, [*words, *of_session, *more, *(["--once"] if once else [])])
