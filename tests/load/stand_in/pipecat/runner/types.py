"""The runner's arguments, as `bot.runner_arguments` builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class SmallWebRTCRunnerArguments:
    webrtc_connection: Any
    body: Any = None
    session_id: str | None = None
