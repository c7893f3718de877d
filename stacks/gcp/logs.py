"""Logs of the dispatcher's service, of bots' VMs and of their executions, from Cloud Logging."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence

from stacks.gcp import names
from stacks.gcp.ending import token
from stacks.gcp.executions import SCOPE, Executions, api_client
from stacks.gcp.tail import EXECUTION_LABEL
from stacks.log_sources import DISPATCHER, LOOK_SECONDS, Source

COMMAND = ("gcloud", "run", "services", "logs", "read")
"""First words of the stack's output `log`; the service's name comes next, and `--project`."""

BOTS = 'log_id("gcplogs-docker-driver")'

EXECUTIONS = 'resource.type="cloud_run_job"'


def place(project: str, deployment: str) -> str:
    """Return the name of a placement's VMs in the stack's output `bots`."""
    return f"{project}:{deployment}"


def place_of_jobs(project: str, region: str, deployment: str) -> str:
    """Return the name of a placement's executions in the stack's output `bots`."""
    return f"{project}:{region}/{deployment}"


def executions_of(project: str, region: str, deployment: str, machine_id: str) -> list[str]:
    """Return the names of a machine's executions. Raises GcpError.

    A second one is there if two were begun, after a lost answer; Cloud Run keeps ended ones for a while.
    """
    with api_client() as client:
        asked = Executions(
            client, project, region, deployment, lambda: token(client, SCOPE, "find bots' executions")
        )
        return [name.rpartition("/")[2] for name, machine, _ in asked.find() if machine == machine_id]


class GcpLogs:
    """The dispatcher's lines, and those of each placement's VMs.

    Args:
        words: `gcloud run services logs read SERVICE --project PROJECT …`; empty: a host elsewhere.
        bots: `PROJECT:DEPLOYMENT` of each placement with VMs, `PROJECT:REGION/DEPLOYMENT` of each with jobs.
        find: Finds a machine's executions, by project, region, deployment and machine.
    """

    def __init__(
        self,
        words: Sequence[str],
        bots: Sequence[str],
        find: Callable[[str, str, str, str], Sequence[str]] = executions_of,
    ) -> None:
        self._words, self._find = words, find
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
        found: list[Source] = []
        for number, (project, place_) in enumerate(self._bots):
            region, _, deployment = place_.rpartition("/")
            if region:
                found += self._of_jobs(project, region, deployment, session, once=once)
                continue
            if not session:
                of_all = _of_vms(f"{deployment}-m-")
                found.append(_source(deployment, project, of_all, "", "--vms", once=once))
                continue
            name = f"m-{session}" if number == 0 else f"m-{session} {deployment}"
            found.append(_source(name, project, _of_vms(f"{deployment}-m-{session}"), session, once=once))
        return found

    def _of_jobs(
        self, project: str, region: str, deployment: str, session: str, *, once: bool
    ) -> list[Source]:
        """Return the lines of a deployment's executions, or of a session's."""
        here = f'{EXECUTIONS} AND resource.labels.location="{region}"'
        if not session:
            wanted = f'{here} AND resource.labels.job_name=~"^{names.jobs(deployment)}"'
            return [_source(f"{deployment} jobs", project, wanted, "", "--vms", once=once)]
        return [
            _source(
                f"m-{session}",
                project,
                f'{here} AND labels."{EXECUTION_LABEL}"={json.dumps(name)}',
                session,
                once=once,
            )
            for name in self._find(project, region, deployment, f"m-{session}")
        ]


def _of_vms(begin: str) -> str:
    return f'{BOTS} AND jsonPayload.instance.name=~"^{begin}"'


def _source(name: str, project: str, wanted: str, session: str, *more: str, once: bool) -> Source:
    words = [sys.executable, "-m", "stacks.gcp.tail", "--project", project, "--filter", wanted]
    of_session = ["--session"] if session else []
    return Source(name, [*words, *of_session, *more, *(["--once"] if once else [])])
