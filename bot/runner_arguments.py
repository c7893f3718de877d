"""The one argument of a bot: an instance of exactly the classes of `pipecat.runner.types`.

A bot file that imports `pipecatcloud.agent` gets that package's subclasses of them, as on Pipecat Cloud.

Never `pipecat.runner.run`: importing it loads `.env` over the environment and sets ENV=local.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from bot.protocol import Assignment

_CLASSES = {"webrtc": "SmallWebRTC", "daily": "Daily"}


def runner_arguments(
    assignment: Assignment,
    cli_args: Any,
    *,
    connection: Any = None,
    request_data: Any = None,
    websocket: Any = None,
    file_storage: Any = None,
) -> Any:
    """Return the object that the bot function is called with.

    The fields differ between versions of Pipecat: each version gets those that it has.

    Args:
        cli_args: The parsed command line of the bot (`bot.command_line`).
        connection: The SmallWebRTCConnection, for transport `webrtc`.
        request_data: The data that the client sent with its offer. As in Pipecat's development runner, it
            replaces the start request's body unless it is empty.
        file_storage: The storage of the client's uploads.
        websocket: The FastAPI WebSocket that the session talks over, if it came to the machine itself.
    """
    cls = _class("WebSocket" if websocket is not None else _CLASSES.get(assignment.transport, ""))
    body = request_data or assignment.body
    values = {
        "body": {} if body is None else body,
        "session_id": assignment.session_id,
        "webrtc_connection": connection,
        "websocket": websocket,
        "room_url": assignment.room_url,
        "token": assignment.token,
        "file_storage": file_storage,
    }
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    arguments = cls(**{name: value for name, value in values.items() if name in known})
    arguments.cli_args = cli_args
    return arguments


def _class(name: str) -> Any:
    theirs = getattr(sys.modules.get("pipecatcloud.agent"), f"{name or 'Pipecat'}SessionArguments", None)
    if theirs is not None:
        return theirs
    from pipecat.runner import types

    return getattr(types, f"{name}RunnerArguments")
