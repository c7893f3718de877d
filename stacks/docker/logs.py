"""Logs of containers, by `docker logs`."""

from __future__ import annotations

from collections.abc import Sequence

from dispatcher.machines.container.request import DEPLOYMENT_LABEL, MACHINE_LABEL
from stacks.log_sources import DISPATCHER, LOOK_SECONDS, Source, answer

SSH_LOOK_SECONDS = 5.0
"""Between two looks for bots over SSH, where each is a connection."""


class DockerLogs:
    """Containers, and `docker logs`.

    Args:
        log: `docker --host URL logs NAME`, which shows the dispatcher's.
        deployment: The label of the bots' containers.
    """

    def __init__(self, log: Sequence[str], deployment: str) -> None:
        self._log = list(log)
        self._deployment = deployment
        over_ssh = any(word.startswith("ssh://") for word in log)
        self.look_seconds = SSH_LOOK_SECONDS if over_ssh else LOOK_SECONDS

    def dispatcher(self, session: str, *, once: bool) -> Source:
        return Source(DISPATCHER, self._logs(self._log[-1], once=once), session)

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        if not self._deployment:
            return []
        labels = [f"{DEPLOYMENT_LABEL}={self._deployment}"]
        if session:
            labels.append(f"{MACHINE_LABEL}=m-{session}")
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        shown = '{{.Label "' + MACHINE_LABEL + '"}} {{.Names}}'
        listed = answer([*self._log[:-2], "ps", "--all", *filters, "--format", shown])
        # As on `local`: of a bot that was there before, its lines from now on, unless it is the one that is
        # asked for.
        begin = ["--tail", "0"] if first and not session and not once else []
        pairs = [line.split() for line in listed.splitlines()]
        return [Source(pair[0], self._logs(pair[1], *begin, once=once)) for pair in pairs if len(pair) == 2]

    def _logs(self, name: str, *more: str, once: bool) -> list[str]:
        return [*self._log[:-1], *([] if once else ["--follow"]), *more, name]
