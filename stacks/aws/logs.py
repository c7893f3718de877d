"""Logs of tasks, from CloudWatch Logs."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

from stacks.aws.ending import AwsError, client
from stacks.aws.tasks import CONTAINER
from stacks.log_sources import DISPATCHER, LOOK_SECONDS, Source

DEPLOYMENT = "switchboard"
"""First part of the `startedBy` of a stack's tasks, the default of `EcsPlacement.deployment`."""


def place(region: str, group: str) -> str:
    """Return the name of a placement's log in the stack's output `bots`."""
    return f"{region}:{group}"


class AwsLogs:
    """Log groups: the dispatcher's, and one for each placement.

    Args:
        words: `aws logs tail GROUP --region REGION`, which shows the dispatcher's; `--profile` may follow.
        bots: `REGION:GROUP` of each placement.
    """

    def __init__(self, words: Sequence[str], bots: Sequence[str]) -> None:
        self._words = words
        self._bots = [(region, group) for region, _, group in (one.partition(":") for one in bots)]
        self._profile = _option(words, "--profile")
        self.look_seconds = LOOK_SECONDS if bots else math.inf

    def dispatcher(self, session: str, *, once: bool) -> Source:
        more = ["--text", session] if session else []
        return self._source(DISPATCHER, _option(self._words, "--region"), self._words[3], *more, once=once)

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        if not session:
            return [self._source(group, region, group, "--tasks", once=once) for region, group in self._bots]
        return [
            self._source(
                f"m-{session}", region, group, "--stream", f"{CONTAINER}/{CONTAINER}/{task}", once=once
            )
            for region, group in self._bots
            for task in self._tasks(region, group, f"m-{session}")
        ]

    def _tasks(self, region: str, group: str, machine_id: str) -> list[str]:
        """Return the ids of a machine's tasks. Raises AwsError.

        ECS knows a task for an hour after its end. A second one is there if the first did not start.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        ecs, cluster = client(region, self._profile), group.split("/")[1]
        found: list[str] = []
        try:
            for status in ("RUNNING", "STOPPED"):
                pages: Any = ecs.get_paginator("list_tasks").paginate(
                    cluster=cluster, startedBy=f"{DEPLOYMENT}/{machine_id}", desiredStatus=status
                )
                found += [arn.rpartition("/")[2] for page in pages for arn in page["taskArns"]]
        except (BotoCoreError, ClientError) as error:
            raise AwsError(f"the tasks of {cluster} in {region} cannot be listed: {error}") from None
        return found

    def _source(self, name: str, region: str, group: str, *more: str, once: bool) -> Source:
        words = [sys.executable, "-m", "stacks.aws.tail", "--region", region, "--group", group]
        profile = ["--profile", self._profile] if self._profile else []
        return Source(name, [*words, *profile, *more, *(["--once"] if once else [])])


def _option(words: Sequence[str], name: str) -> str:
    """Return the value of an option of a command; empty if it is not there."""
    return next((value for key, value in itertools.pairwise(words) if key == name), "")
