"""The echo bot with Silero by torch, as `torch.hub` gives it."""

import echo  # pyright: ignore[reportMissingImports] - beside it in its image
import numpy as np
import torch  # pyright: ignore[reportMissingImports] - in the image
from pipecat.audio.vad.vad_analyzer import VADAnalyzer

RATE, WINDOW = 16_000, 512
HEARD = 0.7
"""Confidence that is told once: of silence it is 0.01."""


class TorchSilero(VADAnalyzer):
    def __init__(self) -> None:
        super().__init__(sample_rate=RATE)
        torch.set_num_threads(1)
        self._model, _ = torch.hub.load("snakers4/silero-vad:master", "silero_vad", trust_repo=True)
        self._told = False

    def num_frames_required(self) -> int:
        return WINDOW

    def voice_confidence(self, buffer: bytes) -> float:
        samples = np.frombuffer(buffer, np.int16).astype(np.float32) / 2**15
        confidence = self._model(torch.from_numpy(samples), RATE).item()
        if confidence > HEARD and not self._told:
            print(f"torch {torch.__version__} hears a voice", flush=True)
            self._told = True
        return confidence


echo.create_vad = TorchSilero
bot = echo.bot
