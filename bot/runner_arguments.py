"""The one argument of a bot: an instance of exactly the classes of `pipecat.runner.types`.

Never `pipecat.runner.run`: importing it loads `.env` over the environment and sets ENV=local.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bot.protocol import Assignment

_CLASSES = {"webrtc": "SmallWebRTCRunnerArguments", "daily": "DailyRunnerArguments"}


def runner_arguments(assignment: Assignment, *, connection: Any = None, request_data: Any = None) -> Any:
    """What the bot function is called with.

    The fields differ between versions of Pipecat: each gets what it knows of.

    Args:
        connection: The SmallWebRTCConnection, for transport `webrtc`.
        request_data: What the client sent with its offer. As in Pipecat's development runner, it takes the
            place of the start request's body unless it is empty.
    """
    from pipecat.runner import types

    cls = getattr(types, _CLASSES.get(assignment.transport, "RunnerArguments"))
    body = request_data or assignment.body
    values = {
        "body": {} if body is None else body,
        "session_id": assignment.session_id,
        "webrtc_connection": connection,
        "room_url": assignment.room_url,
        "token": assignment.token,
    }
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    return cls(**{name: value for name, value in values.items() if name in known})
