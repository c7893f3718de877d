"""Task state changes that EventBridge delivers to an API destination.

An API destination sends a header with a secret, that of its connection. It may deliver an event twice, and
late; `detail.version` grows with each change of a task. (Amazon ECS developer guide, "Amazon ECS task state
change events".)
"""

from __future__ import annotations

import hmac
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from dispatcher.machines.settings import Forged

KEY_HEADER = "x-switchboard-key"
SOURCE, KIND = "aws.ecs", "ECS Task State Change"

REMEMBERED = 20_000
"""Tasks of which the latest version is known. Should more come, the oldest are forgotten, and an event of
theirs would count again. They are hints."""


class TaskEvents:
    """Reads task events.

    Args:
        key: The secret of the API destination's connection.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._versions: OrderedDict[str, int] = OrderedDict()

    def check(self, headers: Mapping[str, str]) -> None:
        given = headers.get(KEY_HEADER, "")
        if not given:
            raise Forged(f"{KEY_HEADER} is needed.")
        if not hmac.compare_digest(self._key, given.encode()):
            raise Forged(f"{KEY_HEADER} is not ecs_events_key.")

    def read(self, body: bytes) -> str | None:
        read = _read(body)
        if read is None:
            return None
        arn, version, started_by = read
        if version <= self._versions.get(arn, -1):
            return None
        self._versions[arn] = version
        self._versions.move_to_end(arn)
        if len(self._versions) > REMEMBERED:
            self._versions.popitem(last=False)
        # Of whichever deployment: an id that is none of ours is not found.
        return started_by.rpartition("/")[2] or None


def _read(body: bytes) -> tuple[str, int, str] | None:
    """Return a task's ARN, the version of its change, and who started it; None if it is no such event."""
    try:
        event: dict[str, Any] = json.loads(body)
        detail = event["detail"]
        if (event["source"], event["detail-type"]) != (SOURCE, KIND):
            return None
        read = (detail["taskArn"], detail["version"], detail.get("startedBy", ""))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    arn, version, started_by = read
    is_event = isinstance(arn, str) and isinstance(version, int) and isinstance(started_by, str)
    return (arn, version, started_by) if is_event and len(arn) <= 2048 else None
