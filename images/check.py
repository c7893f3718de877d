"""Load the image's voice activity detector and have it hear silence, with no network.

    python check.py onnx|torch

A build runs it. (`RUN --network=none` would do more, but Docker 20.10's BuildKit, of Debian 12, has it not.)
"""

from __future__ import annotations

import sys

RATE = 16_000
WINDOW = 512
"""Samples that Silero takes at once at 16 kHz."""

SILENT = 0.3
"""Confidence that silence is speech: what a model that is broken would exceed or not give at all."""


NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


class NoNetwork(OSError):
    """What a call for the network gets: who asked may go on without, as torch.hub does with what it has."""


def refuse_network(event: str, arguments: tuple) -> None:
    """An audit hook: every call of Python's that would reach the network fails as if there were none."""
    if event in NETWORK:
        raise NoNetwork(f"{event} of {arguments[0]!r}: there is no network")


def onnx() -> float:
    """The model inside Pipecat's wheel."""
    import numpy as np
    from pipecat.audio.vad.silero import SileroVADAnalyzer

    detector = SileroVADAnalyzer(sample_rate=RATE)
    detector.set_sample_rate(RATE)
    return np.asarray(detector.voice_confidence(bytes(2 * WINDOW))).item()


def torch() -> float:
    """The model that `torch.hub` has in TORCH_HOME."""
    import torch  # pyright: ignore[reportMissingImports] - in the images with VAD=torch

    model, _ = torch.hub.load("snakers4/silero-vad", "silero_vad", trust_repo=True)
    return float(model(torch.zeros(WINDOW), RATE))


if __name__ == "__main__":
    sys.addaudithook(refuse_network)
    confidence = {"onnx": onnx, "torch": torch}[sys.argv[1]]()
    if not 0 <= confidence < SILENT:
        sys.exit(f"check.py: the detector ({sys.argv[1]}) takes silence for speech: {confidence}")
