"""The echo bot's recording of what it hears, frame by frame."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    TTSAudioRawFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.tests.utils import run_test

from bot.agents import echo
from bot.agents.echo import SAMPLE_RATE, Echo

STOP_SECS = 0.2


def audio(level: int, seconds: float) -> list[Frame]:
    """A tone of 500 Hz, or silence at level 0, in frames of 20 ms."""
    samples = level * np.sin(2 * np.pi * 500 / SAMPLE_RATE * np.arange(round(seconds * SAMPLE_RATE)))
    pcm = samples.astype(np.int16).tobytes()
    size = SAMPLE_RATE // 50 * 2
    return [InputAudioRawFrame(pcm[at : at + size], SAMPLE_RATE, 1) for at in range(0, len(pcm), size)]


def turn_of(*heard: list[Frame]) -> list[Frame]:
    """A turn in which the detector fires after the first part, and everything is followed by a pause."""
    before, *during = heard
    return [
        *before,
        VADUserStartedSpeakingFrame(),
        UserStartedSpeakingFrame(),
        *(frame for part in during for frame in part),
        *audio(0, STOP_SECS),
        VADUserStoppedSpeakingFrame(stop_secs=STOP_SECS),
        *audio(0, echo.PAUSE_SECONDS),
        UserStoppedSpeakingFrame(),
    ]


def said_back(frames: list[Frame]) -> list[np.ndarray]:
    downstream, _ = asyncio.run(run_test(Echo(), frames_to_send=frames))
    return [np.frombuffer(f.audio, np.int16) for f in downstream if isinstance(f, TTSAudioRawFrame)]


def seconds(samples: np.ndarray) -> float:
    return len(samples) / SAMPLE_RATE


def test_the_silence_around_an_utterance_is_trimmed_and_its_beginning_is_kept() -> None:
    unnoticed = [*audio(0, 3.0), *audio(9000, 0.6)]
    (utterance,) = said_back(turn_of(unnoticed, audio(9000, 1.0)))
    assert seconds(utterance) == pytest.approx(echo.LEAD_IN_SECONDS + 1.6 + echo.POST_ROLL_SECONDS, abs=0.01)
    assert not utterance[: round((echo.LEAD_IN_SECONDS - 0.01) * SAMPLE_RATE)].any()
    assert not utterance[-round(echo.POST_ROLL_SECONDS * SAMPLE_RATE) :].any()


def test_a_pause_inside_an_utterance_stays() -> None:
    paused = [*audio(9000, 0.5), *audio(0, STOP_SECS), VADUserStoppedSpeakingFrame(stop_secs=STOP_SECS)]
    resumed = [*audio(0, 0.1), VADUserStartedSpeakingFrame(), *audio(9000, 0.5)]
    (utterance,) = said_back(turn_of([], paused, resumed))
    assert seconds(utterance) == pytest.approx(0.5 + 0.3 + 0.5 + echo.POST_ROLL_SECONDS, abs=0.01)


def test_an_utterance_does_not_repeat_the_one_before() -> None:
    first, second = said_back(turn_of([], audio(9000, 0.5)) + turn_of(audio(3000, 0.2), audio(3000, 0.5)))
    assert np.abs(first).max() > 8000
    assert np.abs(second).max() < 3100
    assert seconds(second) == pytest.approx(echo.LEAD_IN_SECONDS + 0.7 + echo.POST_ROLL_SECONDS, abs=0.01)


def test_of_a_very_long_utterance_the_end_is_said_back() -> None:
    (utterance,) = said_back(turn_of([], audio(9000, 2.0), audio(5000, echo.LONGEST_SECONDS)))
    assert seconds(utterance) <= echo.LONGEST_SECONDS
    assert np.abs(utterance).max() < 5100
