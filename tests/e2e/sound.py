"""Comparing what was heard with what was said.

Between the two lie a resampler, Opus at a variable bit rate, a jitter buffer and a bot, so samples do
not match. What survives is how the energy of each band rises and falls, so that is what is compared.
"""

from __future__ import annotations

import itertools
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.02
BANDS = np.geomspace(200.0, 3600.0, 13)
"""Edges of 12 bands in Hz: the range of a telephone, which every codec and microphone in between carries."""
QUIET_DECIBELS = -45.0
"""Energies are compared down to this far under the loudest frame; below lie comfort noise and rounding."""
ALIKE = 0.7
"""Measured: a sentence that came back scores 0.86 to 0.93, another sentence under 0.3."""


@dataclass(frozen=True)
class Sound:
    """Mono samples from −1 to 1, and their rate in Hz."""

    samples: NDArray[np.float64]
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def part(self, start: float, end: float | None = None) -> Sound:
        """The sound from `start` to `end`, in seconds."""
        last = None if end is None else int(end * self.rate)
        return Sound(self.samples[int(start * self.rate) : last], self.rate)


def read_wav(path: Path) -> Sound:
    """Read a 16 bit mono wav file."""
    with wave.open(str(path)) as file:
        channels, width = file.getnchannels(), file.getsampwidth()
        if (channels, width) != (1, 2):
            raise ValueError(f"{path} has {channels} channels of {width} bytes a sample; 1 of 2 is read")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return Sound(samples.astype(np.float64) / 32768, file.getframerate())


def write_wav(path: Path, sound: Sound) -> None:
    """Write a 16 bit mono wav file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, sound.rate, 0, "NONE", ""))
        file.writeframes((np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes())


def silence(seconds: float, rate: int) -> Sound:
    return Sound(np.zeros(int(seconds * rate)), rate)


def join(*parts: Sound) -> Sound:
    """The parts one after the other; all have the same rate."""
    (rate,) = {part.rate for part in parts}
    return Sound(np.concatenate([part.samples for part in parts]), rate)


def loudness(sound: Sound) -> NDArray[np.float64]:
    """The level of each frame in dBFS."""
    size = int(sound.rate * FRAME_SECONDS)
    count = len(sound.samples) // size
    frames = sound.samples[: count * size].reshape(count, size)
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)


def energies(sound: Sound) -> NDArray[np.float64]:
    """The energy in dB of each frame in each band: (frames, bands); `QUIET_DECIBELS` says how low it goes."""
    size = int(sound.rate * FRAME_SECONDS)
    count = max(0, len(sound.samples) // size - 1)
    starts = np.arange(count)[:, np.newaxis] * size
    frames = sound.samples[starts + np.arange(2 * size)] * np.hanning(2 * size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    hertz = np.fft.rfftfreq(2 * size, 1 / sound.rate)
    bands = [power[:, (hertz >= low) & (hertz < high)].sum(axis=1) for low, high in itertools.pairwise(BANDS)]
    decibels = 10 * np.log10(np.stack(bands, axis=1) + 1e-12)
    return np.maximum(decibels, decibels.max(initial=-120.0) + QUIET_DECIBELS)


def likeness(heard: Sound, said: Sound) -> float:
    """Match `said` with the best stretch of `heard`: 1 is the same sound, 0 is nothing alike."""
    pattern, field = energies(said), energies(heard)
    length = len(pattern)
    if len(field) < length:
        return 0.0
    return max(_correlation(field[lag : lag + length], pattern) for lag in range(len(field) - length + 1))


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    # Each band about its own mean: otherwise any two voices match by their average spectrum alone.
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm > 0 else 0.0
