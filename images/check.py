"""Load the image's voice activity detector and have it hear silence and a voice, with no network.

    python check.py onnx|torch

A build runs it. (`RUN --network=none` would do more, but Docker 20.10's BuildKit, of Debian 12, has it not.)
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Iterator

RATE = 16_000
WINDOW = 512
"""Samples that Silero takes at once, at 16 kHz."""

WINDOWS = 31
"""Windows in a second."""

SILENT, SPOKEN = 0.3, 0.7
"""Limits on the confidence that a window is speech: the most for silence, the least that a voice must reach.

Silero gives 0.01 and 1.0. A broken model gives the same for both, or nothing.
"""

PITCH = 160
FORMANTS = ((300, 60), (2300, 100), (3000, 120))
"""Formants in Hz and their widths: a man's [i] (Peterson and Barney 1952)."""

Confidence = Callable[[list[float]], float]
"""A detector: the confidence that the next window, samples from -1 to 1, is speech."""


NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


class NoNetwork(OSError):
    """Raised for a call to the network. The caller may go on without, as torch.hub does with its cache."""


def refuse_network(event: str, arguments: tuple) -> None:
    """Audit hook: fail every call of Python's that would reach the network, as if there were none."""
    if event in NETWORK:
        raise NoNetwork(f"{event} of {arguments[0]!r}: there is no network")


def onnx() -> Confidence:
    """Load the model inside Pipecat's wheel."""
    import numpy as np
    from pipecat.audio.vad.silero import SileroVADAnalyzer

    detector = SileroVADAnalyzer(sample_rate=RATE)
    detector.set_sample_rate(RATE)

    def confidence(window: list[float]) -> float:
        samples = struct.pack(f"<{WINDOW}h", *(round(sample * 32767) for sample in window))
        return np.asarray(detector.voice_confidence(samples)).item()

    return confidence


def torch() -> Confidence:
    """Load the model that `torch.hub` has in TORCH_HOME."""
    import torch  # pyright: ignore[reportMissingImports] - in the images with VAD=torch

    model, _ = torch.hub.load("snakers4/silero-vad", "silero_vad", trust_repo=True)
    return lambda window: float(model(torch.tensor(window), RATE))


def voice() -> Iterator[list[float]]:
    """Return four syllables of a vowel."""
    partials = [
        (PITCH * number, sum(1 / (1 + ((PITCH * number - at) / width) ** 2) for at, width in FORMANTS))
        for number in range(1, 4000 // PITCH)
    ]
    loudest = sum(amplitude for _, amplitude in partials)
    for start in range(0, WINDOWS * WINDOW, WINDOW):
        seconds = [sample / RATE for sample in range(start, start + WINDOW)]
        yield [
            (1 - math.cos(8 * math.pi * second))
            / 2
            / loudest
            * sum(amplitude * math.sin(2 * math.pi * hertz * second) for hertz, amplitude in partials)
            for second in seconds
        ]


def main(detector: str) -> str | None:
    """Return the detector's fault; None if it has none."""
    confidence = {"onnx": onnx, "torch": torch}[detector]()
    silent = max(confidence([0.0] * WINDOW) for _ in range(WINDOWS))
    if not 0 <= silent < SILENT:
        return f"check.py: the detector ({detector}) takes silence for speech: {silent}"
    spoken = max(map(confidence, voice()))
    if not SPOKEN < spoken <= 1:
        return f"check.py: the detector ({detector}) does not hear a voice: {spoken}"
    return None


if __name__ == "__main__":
    sys.addaudithook(refuse_network)
    sys.exit(main(sys.argv[1]))
