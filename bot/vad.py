"""The voice activity detector of the bots: Silero, as the ONNX model inside the Pipecat wheel.

It needs no network, no torch, and one thread: Pipecat gives the ONNX runtime one intra-op and one inter-op
thread, so a bot on one vCPU does not compete with itself. Loading the model takes about 25 ms and 10 MiB,
a window of 32 ms of audio about 0.1 ms.
"""

from __future__ import annotations

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer

_loaded: list[VADAnalyzer] = []


def preload_vad() -> None:
    """Load the model for the next `create_vad`. Call it at the top of a bot file.

    A machine imports the file while it waits for its client, so the model is loaded when the session begins.
    """
    if not _loaded:
        _loaded.append(SileroVADAnalyzer())


def create_vad() -> VADAnalyzer:
    """Return a detector with Pipecat's default parameters, for one stream of 8 or 16 kHz mono audio.

    Each call returns a new one: a detector keeps state of its stream, and is closed with its pipeline.
    """
    return _loaded.pop() if _loaded else SileroVADAnalyzer()
