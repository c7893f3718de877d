"""The imports that need no knowledge of the session."""

from __future__ import annotations

import contextlib
import importlib

_TRANSPORT = "bot.webrtc"

_OF_ALMOST_EVERY_BOT = (
    "pipecat.runner.types",
    "pipecat.runner.utils",
    "pipecat.pipeline.worker",
    "pipecat.workers.runner",
    "pipecat.transports.smallwebrtc.transport",
    "pipecat.audio.vad.silero",
    "bot.observe",
)


def preload() -> None:
    """Import everything that almost every bot needs; skip what is not installed.

    For machines of the reserve, and for a template process that forks machines: it starts no event loop and
    reads no argument. (numpy's linear algebra starts its threads when it is imported; they survive a fork.)
    """
    for name in (_TRANSPORT, *_OF_ALMOST_EVERY_BOT):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def preload_transport() -> None:
    """Import what an offer's answer needs, and nothing else: the client waits for this first.

    Raises:
        ImportError: Pipecat's SmallWebRTC is not installed.
    """
    importlib.import_module(_TRANSPORT)
