"""A stand-in for daily-python without media: who is in which room, the fake of Daily's API says.

It has the names that Pipecat's DailyTransport imports, with the signatures and the order of events of
daily-python 0.36 (its `__init__.pyi`; the order of a refused join as seen: state `leaving`, state `left`,
then the completion with the error). `DAILY_STUB_URL` is where the fake is served.
"""

from __future__ import annotations

import contextlib
import enum
import http.client
import json
import os
import socket
import threading
import time
import urllib.parse
import uuid
from typing import Any


class LogLevel(enum.Enum):
    Off = 0
    Error = 1
    Warn = 2
    Info = 3
    Debug = 4
    Trace = 5


class AudioData: ...


class VideoFrame: ...


class EventHandler:
    def __init__(self) -> None: ...


class VirtualSpeakerDevice:
    """Reads silence, at the pace of a call."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate, self._channels = sample_rate, channels

    def read_frames(self, num_frames: int, completion: Any = None) -> bytes:
        silence = bytes(2 * num_frames * self._channels)
        if completion is not None:
            threading.Timer(num_frames / self._rate, completion, (silence,)).start()
        return silence


class Daily:
    @staticmethod
    def init(*_: Any, **__: Any) -> None: ...

    @staticmethod
    def create_speaker_device(
        device_name: str, sample_rate: int = 16000, channels: int = 1, non_blocking: bool = False
    ) -> VirtualSpeakerDevice:
        return VirtualSpeakerDevice(sample_rate, channels)

    @staticmethod
    def select_speaker_device(device_name: str) -> None: ...


class CustomAudioSource:
    """Takes sound at the pace of a call, and drops it."""

    def __init__(self, sample_rate: int, channels: int, auto_silence: bool = True) -> None:
        self._rate = sample_rate

    def write_frames(self, frames: bytes, completion: Any = None) -> int:
        count = len(frames) // 2
        if completion is not None:
            threading.Timer(count / self._rate, completion, (count,)).start()
        return count


class _Track:
    def __init__(self, source: Any) -> None:
        self.id = uuid.uuid4().hex


class CustomAudioTrack(_Track): ...


class CustomVideoTrack(_Track): ...


class CustomVideoSource:
    def __init__(self, width: int, height: int, color_format: str) -> None: ...


def _complete(completion: Any) -> None:
    if completion is not None:
        # On another thread, as daily-python does: a callback may call the client again.
        threading.Thread(target=completion, args=(None,), daemon=True).start()


class CallClient:
    """One participant: it is in its room as long as its connection to the fake stands."""

    def __init__(self, event_handler: Any = None) -> None:
        self._handler = event_handler
        self._held: socket.socket | None = None
        self._others: dict[str, Any] = {}

    def join(
        self,
        meeting_url: str,
        meeting_token: str | None = None,
        client_settings: Any = None,
        completion: Any = None,
    ) -> None:
        room = urllib.parse.urlsplit(meeting_url).path.strip("/")
        body = json.dumps({"room": room, "token": meeting_token})
        threading.Thread(target=self._attend, args=(body, completion), daemon=True).start()

    def leave(self, completion: Any = None) -> None:
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
        _complete(completion)

    def release(self) -> None:
        self.leave()

    def participants(self) -> Any:
        return self._others

    def participant_counts(self) -> Any:
        return {"present": 1 + len(self._others), "hidden": 0}

    def set_user_name(self, user_name: str) -> None: ...

    def update_subscription_profiles(self, profile_settings: Any, completion: Any = None) -> None: ...

    def set_audio_renderer(self, *_: Any, **__: Any) -> None: ...

    def update_subscriptions(
        self, participant_settings: Any = None, profile_settings: Any = None, completion: Any = None
    ) -> None:
        _complete(completion)

    def send_app_message(self, message: Any, participant: Any = None, completion: Any = None) -> None:
        _complete(completion)

    def _attend(self, body: str, completion: Any) -> None:
        at = urllib.parse.urlsplit(os.environ["DAILY_STUB_URL"])
        connection = http.client.HTTPConnection(at.hostname or "", at.port)
        connection.connect()
        held = connection.sock
        connection.request("POST", "/join", body, {"Content-Type": "application/json"})
        with contextlib.closing(held), connection.getresponse() as answer:
            first = json.loads(answer.readline())
            if "refused" in first:
                self._tell("on_call_state_updated", "leaving")
                self._tell("on_call_state_updated", "left")
                completion(None, first["refused"])
                return
            self._held = held
            self._tell("on_call_state_updated", "joined")
            local = {"id": first["id"], "info": {"isLocal": True}}
            completion({"participants": {"local": local}, "meetingSession": {"id": "meeting"}}, None)
            # A call that is left ends the connection, and with it this.
            with contextlib.suppress(OSError, http.client.HTTPException):
                while line := answer.readline():
                    self._happened(**json.loads(line))

    def _happened(self, event: str, id: str = "") -> None:
        participant = {"id": id, "info": {"isLocal": False, "userName": ""}, "media": {}}
        match event:
            case "joined":
                self._others[id] = participant
                self._tell("on_participant_joined", participant)
            case "left":
                del self._others[id]
                self._tell("on_participant_left", participant, "leftCall")
            case "ejected":
                self._held = None
                self._tell("on_error", "ejected")
                self._tell("on_call_state_updated", "leaving")
                self._tell("on_call_state_updated", "left")

    def _tell(self, name: str, *arguments: Any) -> None:
        handler = getattr(self._handler, name, None)
        if handler is not None:
            handler(*arguments)
        time.sleep(0)
