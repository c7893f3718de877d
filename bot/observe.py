"""The observer of an unmodified bot's pipeline. Importing this imports Pipecat's frames."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipecat.frames.frames import (
    BotConnectedFrame,
    BotStartedSpeakingFrame,
    ClientConnectedFrame,
    ErrorFrame,
    Frame,
    OutputAudioRawFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed

from bot.listener import Listener


class PipelineObserver(BaseObserver):
    """Tells a listener of the few frames that matter; any other costs one look-up in a dict.

    Pipecat runs observers on tasks of their own, so none of this holds up the pipeline.

    Args:
        now: Seconds of a monotonic clock, in which everything is measured.
        wall: Unix seconds, the clock of Pipecat's own frame times.
        tells_client: Whether the client's arrival is told by its frame. False where the transport's events
            tell it: the frame may come after the client has left again.
    """

    def __init__(
        self,
        listener: Listener,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        tells_client: bool = True,
    ) -> None:
        super().__init__(observe_every_push=False)
        self._listener = listener
        self._now = now
        self._wall = wall
        self._tells_client = tells_client
        self._client_at: float | None = None
        self._user_stopped_at: float | None = None
        self._spoke = False
        self._user_spoke = False
        self._has_vad = False
        self._handlers: dict[type[Frame], Callable[..., None]] = {
            BotConnectedFrame: lambda _frame: listener.bot_in_room(),
            ClientConnectedFrame: self._client_connected,
            VADUserStartedSpeakingFrame: self._user_started,
            VADUserStoppedSpeakingFrame: self._vad_stopped,
            UserStoppedSpeakingFrame: self._turn_stopped,
            BotStartedSpeakingFrame: self._bot_started,
            # Audio that is not marked as speech (of a bot that plays sounds) has no start of speech.
            OutputAudioRawFrame: self._bot_sounded,
        }
        for error in (ErrorFrame, *ErrorFrame.__subclasses__()):
            self._handlers[error] = self._failed

    async def on_pipeline_started(self) -> None:
        self._listener.pipeline_started()

    async def on_push_frame(self, data: FramePushed) -> None:
        handler = self._handlers.get(type(data.frame))
        if handler is not None:
            handler(data.frame)

    def _client_connected(self, _frame: Frame) -> None:
        if self._client_at is None:
            self._client_at = self._now()
        if self._tells_client:
            self._listener.client_here()

    def _user_started(self, _frame: Frame) -> None:
        self._user_stopped_at = None
        self._user_spoke = self._has_vad = True

    def _vad_stopped(self, frame: VADUserStoppedSpeakingFrame) -> None:
        # The VAD reports after `stop_secs` of silence; the user stopped that much earlier.
        self._has_vad = True
        told_ago = max(self._wall() - frame.timestamp, 0.0)
        self._user_stopped_at = self._now() - told_ago - frame.stop_secs

    def _turn_stopped(self, _frame: Frame) -> None:
        # For bots whose speech service detects turns, without a VAD.
        self._user_spoke = True
        if not self._has_vad:
            self._user_stopped_at = self._now()

    def _bot_started(self, _frame: Frame) -> None:
        self._bot_sounded(_frame)
        if self._user_stopped_at is not None:
            self._listener.latency("turn", (self._now() - self._user_stopped_at) * 1000)
            self._user_stopped_at = None

    def _failed(self, frame: ErrorFrame) -> None:
        # After any other error the pipeline goes on; Pipecat logs it.
        if frame.fatal or (frame.processor is not None and not frame.processor.is_usable):
            self._listener.failed(frame.error, fatal=frame.fatal)

    def _bot_sounded(self, _frame: Frame) -> None:
        if self._spoke:
            return
        self._spoke = True
        self._listener.bot_spoke()
        # As in Pipecat's own observer: after the user has spoken it would measure the user.
        if self._client_at is not None and not self._user_spoke:
            self._listener.latency("first_word", (self._now() - self._client_at) * 1000)
