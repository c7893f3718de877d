"""The voice activity detector: what it hears, and what it costs."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import numpy as np
import psutil
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADState

from bot.vad import create_vad, preload_vad

SAMPLE_RATE = 16_000
CHUNK = 2 * SAMPLE_RATE // 50
"""Bytes of 20 ms, as a transport delivers them."""


def silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * SAMPLE_RATE))


def sentence() -> bytes:
    with wave.open(str(Path(__file__).parent / "agents" / "sentence.wav")) as file:
        return file.readframes(file.getnframes())


def states(vad: VADAnalyzer, audio: bytes) -> list[VADState]:
    """The detector's states, each once, in their order."""

    async def analyze() -> list[VADState]:
        vad.set_sample_rate(SAMPLE_RATE)
        try:
            return [await vad.analyze_audio(audio[at : at + CHUNK]) for at in range(0, len(audio), CHUNK)]
        finally:
            await vad.cleanup()

    heard = asyncio.run(analyze())
    return [state for number, state in enumerate(heard) if number == 0 or heard[number - 1] is not state]


def test_it_tells_speech_from_silence_and_noise() -> None:
    spoken = states(create_vad(), silence(1) + sentence() + silence(1))
    assert VADState.SPEAKING in spoken
    assert spoken[-1] is VADState.QUIET
    noise = np.random.default_rng(3).normal(0, 400, 2 * SAMPLE_RATE).astype(np.int16).tobytes()
    assert VADState.SPEAKING not in states(create_vad(), silence(1) + noise)


def test_every_stream_has_a_detector_of_its_own() -> None:
    preload_vad()
    preload_vad()
    first, second, third = create_vad(), create_vad(), create_vad()
    assert len({id(first), id(second), id(third)}) == 3


def test_a_preloaded_detector_hears_as_a_fresh_one_does() -> None:
    audio = silence(1) + sentence() + silence(1)
    preload_vad()
    assert states(create_vad(), audio) == states(create_vad(), audio)


async def test_it_takes_one_thread_on_any_machine() -> None:
    process = psutil.Process()
    create_vad()  # whatever the libraries start once, they have started
    before = process.num_threads()
    vad = create_vad()
    vad.set_sample_rate(SAMPLE_RATE)

    await vad.analyze_audio(silence(1))
    threads = process.num_threads()
    await vad.cleanup()
    assert threads - before <= 1
