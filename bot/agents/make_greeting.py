"""Makes greeting.wav, what the echo bot says first. Needs Debian's `espeak-ng`; the bot itself does not.

python bot/agents/make_greeting.py
"""

from __future__ import annotations

import io
import subprocess
import wave
from pathlib import Path

import numpy as np
import soxr

TEXT = "Hello! Say something, and I will say it back."
VOICE = "en-us+f2"
WORDS_PER_MINUTE = 160
SAMPLE_RATE = 16_000
"""Of the bot's audio, in Hz; espeak-ng itself speaks at 22050."""
PEAK = 0.6
"""Of full scale: as loud as a person on a headset, so that nobody reaches for the volume."""


def synthesize(text: str) -> bytes:
    """Speak `text` as 16-bit mono PCM at `SAMPLE_RATE`, without silence at either end.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        subprocess.CalledProcessError: espeak-ng failed; its message is on stderr.
    """
    command = ["espeak-ng", "-v", VOICE, "-s", str(WORDS_PER_MINUTE), "--stdout", text]
    spoken = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603
    with wave.open(io.BytesIO(spoken)) as source:
        rate = source.getframerate()
        # A stream's header cannot know its length, so everything after it is read.
        samples = np.frombuffer(source.readframes(len(spoken)), dtype=np.int16)
    speech = soxr.resample(samples.astype(np.float32), rate, SAMPLE_RATE, quality="VHQ")
    loud = np.flatnonzero(np.abs(speech) > 0.005 * np.abs(speech).max())
    speech = speech[loud[0] : loud[-1] + 1]
    return (speech / np.abs(speech).max() * PEAK * 32767).astype(np.int16).tobytes()


def main() -> None:
    with wave.open(str(Path(__file__).with_name("greeting.wav")), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(SAMPLE_RATE)
        target.writeframes(synthesize(TEXT))


if __name__ == "__main__":
    main()
