"""The observer's reports on frames, on frames as Pipecat makes them."""

import asyncio
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from pipecat.frames.frames import (
    BotConnectedFrame,
    BotStartedSpeakingFrame,
    ClientConnectedFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    OutputAudioRawFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameDirection
from pipecat.workers.runner import WorkerRunner

from bot.observe import PipelineObserver
from bot.watch import Watch
from tests.patience import PATIENCE


class Listener:
    def __init__(self) -> None:
        self.said: list[object] = []

    def pipeline_started(self) -> None:
        self.said.append("pipeline")

    def bot_in_room(self) -> None:
        self.said.append("room")

    def join_refused(self, words: str) -> None:
        self.said.append(("refused", words))

    def removed_from_room(self) -> None:
        self.said.append("removed")

    def client_here(self) -> None:
        self.said.append("client")

    def client_gone(self) -> None:
        self.said.append("gone")

    def bot_spoke(self) -> None:
        self.said.append("spoke")

    def failed(self, error, *, fatal) -> None:
        self.said.append((error, fatal))

    def latency(self, kind, milliseconds) -> None:
        self.said.append((kind, round(milliseconds)))


WALL = 1_700_000_000.0
"""Unix seconds at second 0."""


def watched(*moments: tuple[float, Frame], wall: Callable[[float], float] | None = None) -> list[object]:
    """Return what the listener hears of frames at those seconds, with Unix seconds of the system's clock at
    each."""
    listener, now = Listener(), [0.0]
    wall = wall or (lambda seconds: WALL + seconds)
    observer = PipelineObserver(listener, now=lambda: now[0], wall=lambda: wall(now[0]))
    source = IdentityFilter()

    async def scenario():
        for seconds, frame in moments:
            now[0] = seconds
            pushed = FramePushed(source, source, frame, FrameDirection.DOWNSTREAM, 0)
            await observer.on_push_frame(pushed)

    asyncio.run(scenario())
    return listener.said


async def test_client_is_not_told_by_its_frame_when_the_transport_tells_it():
    listener, source = Listener(), IdentityFilter()
    observer = PipelineObserver(listener, tells_client=False)
    pushed = FramePushed(source, source, ClientConnectedFrame(), FrameDirection.DOWNSTREAM, 0)
    await observer.on_push_frame(pushed)

    assert listener.said == []


def sound(cls) -> Frame:
    return cls(audio=b"\0\0", sample_rate=16000, num_channels=1)


def stopped(at: float, stop_secs: float) -> Frame:
    return VADUserStoppedSpeakingFrame(stop_secs=stop_secs, timestamp=WALL + at)


def test_the_first_word_is_measured_from_the_client_and_once():
    said = watched(
        (1.0, BotConnectedFrame()),
        (2.0, ClientConnectedFrame()),
        (2.3, BotStartedSpeakingFrame()),
        (9.0, BotStartedSpeakingFrame()),
    )

    assert said == ["room", "client", "spoke", ("first_word", 300)]


def test_sound_that_is_not_marked_as_speech_is_a_first_word_too():
    said = watched(
        (2.0, ClientConnectedFrame()),
        (2.1, sound(InputAudioRawFrame)),
        (2.5, sound(OutputAudioRawFrame)),
        (2.6, sound(OutputAudioRawFrame)),
    )

    assert said == ["client", "spoke", ("first_word", 500)]


def test_a_bot_that_lets_the_user_begin_has_turns_and_no_first_word():
    said = watched(
        (2.0, ClientConnectedFrame()),
        (7.0, VADUserStartedSpeakingFrame()),
        (9.2, stopped(at=9.2, stop_secs=0.2)),
        (9.8, UserStoppedSpeakingFrame()),
        (10.0, BotStartedSpeakingFrame()),
    )

    assert said == ["client", "spoke", ("turn", 1000)]


def test_a_turn_that_the_user_takes_up_again_counts_from_its_real_end():
    said = watched(
        (0.0, ClientConnectedFrame()),
        (0.1, BotStartedSpeakingFrame()),
        (1.0, VADUserStartedSpeakingFrame()),
        (2.2, stopped(at=2.2, stop_secs=0.2)),
        (2.5, VADUserStartedSpeakingFrame()),
        (4.2, stopped(at=4.2, stop_secs=0.2)),
        (4.5, BotStartedSpeakingFrame()),
        (9.0, BotStartedSpeakingFrame()),
    )

    assert said[3:] == [("turn", 500)]


@pytest.mark.parametrize("step", [-864_000.0, 864_000.0])
def test_a_clock_that_is_set_during_a_call_changes_no_measure(step):
    said = watched(
        (1.0, ClientConnectedFrame()),
        (1.5, BotStartedSpeakingFrame()),
        (3.0, VADUserStartedSpeakingFrame()),
        (5.1, stopped(at=5.0, stop_secs=0.2)),
        (6.0, BotStartedSpeakingFrame()),
        wall=lambda seconds: WALL + seconds + (step if 1.2 < seconds < 2 or seconds > 5.5 else 0.0),
    )

    assert said == ["client", "spoke", ("first_word", 500), ("turn", 1200)]


def test_only_errors_that_leave_a_processor_useless_are_told():
    useless = IdentityFilter()
    useless._is_usable = False
    with pytest.warns(DeprecationWarning, match="fatal"):
        fatal = ErrorFrame("over", fatal=True)
    said = watched(
        (1.0, ErrorFrame("a hiccup", processor=IdentityFilter())),
        (2.0, ErrorFrame("no such key", processor=useless)),
        (3.0, fatal),
    )

    assert said == [("no such key", False), ("over", True)]


def test_turns_are_measured_without_a_vad():
    said = watched(
        (0.0, ClientConnectedFrame()),
        (4.0, UserStoppedSpeakingFrame()),
        (4.7, BotStartedSpeakingFrame()),
    )

    assert said == ["client", "spoke", ("turn", 700)]


async def test_an_unmodified_pipeline_is_watched_from_its_start_to_its_end(monkeypatch):
    monkeypatch.setenv("PIPECAT_SETUP_FILES", "/nowhere/else.py")
    listener = Listener()

    Watch(listener).install()
    first, second = (PipelineWorker(Pipeline([IdentityFilter()])) for _ in range(2))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(first, second)
    for worker in (first, second):
        await worker.queue_frames([ClientConnectedFrame(), EndFrame()])
    await runner.run()
    # Two workers, and only the first counts.
    assert listener.said == ["pipeline", "client"]


async def test_a_watch_cancels_the_pipelines_that_run():
    watch = Watch(Listener())
    watch.install()
    assert not watch.can_cancel
    worker = PipelineWorker(Pipeline([IdentityFilter()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    async with asyncio.timeout(PATIENCE):
        while not watch.can_cancel:
            await asyncio.sleep(0)
        await watch.cancel("the test is over")
        await running
    assert worker.has_finished()


async def test_of_a_frame_that_does_not_matter_only_its_class_is_looked_up():
    """There are 50 frames a second, through ten processors."""
    observer = PipelineObserver(Listener())
    source = IdentityFilter()
    pushed = FramePushed(source, source, sound(InputAudioRawFrame), FrameDirection.DOWNSTREAM, 0)
    ran: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        ran.append(f"{event} of {frame.f_code.co_name}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        await observer.on_push_frame(pushed)
    finally:
        sys.settrace(before)
    assert ran == [f"{event} of on_push_frame" for event in ("call", "line", "line", "return")]
