"""Makes the recordings that are kept beside the code. Needs Debian's `espeak-ng`; bots and tests do not.

S="python bot/agents/synthesize.py"
$S bot/agents/greeting.wav en-us+f2 "Hello! Say something, and I will say it back."
$S tests/bot/agents/sentence.wav en-us "The early train to Lisbon leaves from platform seven."
$S tests/bot/agents/objection.wav en-gb "Wait a moment, I meant the night train."
"""

from __future__ import annotations

import argparse
import io
import subprocess
import wave
from pathlib import Path

import numpy as np
import soxr

WORDS_PER_MINUTE = 160
SAMPLE_RATE = 16_000
"""Sample rate of the bots' audio, in Hz; espeak-ng itself speaks at 22050."""
PEAK = 0.6
"""Peak of the recording, as a share of full scale: as loud as a person on a headset."""
AUDIBLE = 0.005
"""Share of the peak below which sound at either end is cut off."""


def synthesize(text: str, voice: str) -> bytes:
    """Speak `text` as 16-bit mono PCM at `SAMPLE_RATE`, without silence at either end.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        subprocess.CalledProcessError: espeak-ng failed; its message is on stderr.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(WORDS_PER_MINUTE), "--stdout", text]
    spoken = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    with wave.open(io.BytesIO(spoken)) as source:
        rate = source.getframerate()
        # A stream's header cannot know its length, so everything after it is read.
        samples = np.frombuffer(source.readframes(len(spoken)), dtype=np.int16)
    speech = soxr.resample(samples.astype(np.float32), rate, SAMPLE_RATE, quality="VHQ")
    loudness = np.abs(speech) / np.abs(speech).max()
    audible = np.flatnonzero(loudness > AUDIBLE)
    speech = speech[audible[0] : audible[-1] + 1]
    return (speech / np.abs(speech).max() * PEAK * 32767).astype(np.int16).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description="Speak a text into a 16 kHz mono wav file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("voice", help="as in `espeak-ng --voices`; +f1 to +f5 make it female")
    parser.add_argument("text")
    arguments = parser.parse_args()
    with wave.open(str(arguments.file), "wb") as target:
        target.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        target.writeframes(synthesize(arguments.text, arguments.voice))


if __name__ == "__main__":
    main()
