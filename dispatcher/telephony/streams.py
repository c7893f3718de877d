"""Media streams of carriers: the messages that a dispatcher reads and sends before the bot is there.

Described at https://www.twilio.com/docs/voice/media-streams/websocket-messages,
https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming,
https://www.plivo.com/docs/voice/concepts/audio-streaming and
https://developer.exotel.com/docs/agentstream/stream-voicebot-applet.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

RATE = 8000
"""Samples a second of every carrier's streams."""

RING_SECONDS = 2.0
RING_EVERY_SECONDS = 6.0
"""Ringback of North America (ITU-T E.182): 440 and 480 Hz, 2 s of every 6."""

PIECE = RATE // 5
"""Samples of one message: 200 ms, the least that Exotel takes (3,200 bytes of linear samples)."""

MAX_HELD_FRAMES = 32
"""Limit on the frames that are kept for the bot: the stream's first two, and keys that the caller presses."""

MAX_HELD_BYTES = 16 * 1024
"""Limit on one of them; Twilio's `start` has at most 20 parameters of 500 characters."""

BURST_FRAMES = 1000
FRAMES_PER_SECOND = 200
"""Limit on a caller's frames: four times those of a call."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One carrier's messages."""

    stream_of: Callable[[Mapping[str, Any]], Any]
    """Returns the stream's id from the `start` message."""
    media: Callable[[str, bytes, bytes], Mapping[str, Any]]
    """Returns the message that plays a sound: stream, μ-law, linear samples."""
    clear: Callable[[str], Mapping[str, Any]]
    """Returns the message that ends what is played."""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


DIALECTS: Mapping[str, Dialect] = {
    "twilio": Dialect(
        lambda message: message["start"]["streamSid"],
        lambda id, ulaw, _: {"event": "media", "streamSid": id, "media": {"payload": _text(ulaw)}},
        lambda id: {"event": "clear", "streamSid": id},
    ),
    "telnyx": Dialect(
        lambda message: message["stream_id"],
        lambda _, ulaw, __: {"event": "media", "media": {"payload": _text(ulaw)}},
        lambda _: {"event": "clear"},
    ),
    "plivo": Dialect(
        lambda message: message["start"]["streamId"],
        lambda _, ulaw, __: {
            "event": "playAudio",
            "media": {"contentType": "audio/x-mulaw", "sampleRate": RATE, "payload": _text(ulaw)},
        },
        lambda id: {"event": "clearAudio", "streamId": id},
    ),
    "exotel": Dialect(
        lambda message: message["start"]["stream_sid"],
        lambda id, _, linear: {"event": "media", "stream_sid": id, "media": {"payload": _text(linear)}},
        lambda id: {"event": "clear", "stream_sid": id},
    ),
}


class Unwelcome(Exception):
    """The caller's side does not behave as a carrier: its WebSocket is closed with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class HeldStream:
    """A stream whose bot is not there yet. Keeps its first messages and the keys pressed; drops the sound,
    which the bot would otherwise hear late."""

    def __init__(self, carrier: str, now: float) -> None:
        self._dialect = DIALECTS[carrier]
        self._began = now
        self._frames = 0
        self.kept: list[str] = []
        self.stream_id: str | None = None
        self.has_rung = False

    def take(self, frame: str | bytes, now: float) -> bool:
        """Take a frame of the carrier's. Return True if it says that the stream is over.

        Raises:
            Unwelcome: the frame is none of a carrier's, or there are too many.
        """
        self._frames += 1
        if self._frames > BURST_FRAMES + FRAMES_PER_SECOND * (now - self._began):
            raise Unwelcome(1008, f"more than {FRAMES_PER_SECOND} frames a second")
        if len(frame) > MAX_HELD_BYTES:
            raise Unwelcome(1009, f"a frame may have {MAX_HELD_BYTES} bytes before the bot is there")
        if isinstance(frame, bytes):
            raise Unwelcome(1003, "a carrier's frames are texts")
        try:
            message = json.loads(frame)
            event = message["event"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Unwelcome(1007, "a carrier's frames are JSON objects with an event") from None
        if event == "start":
            self.stream_id = self._stream_of(message)
        if event in ("connected", "start", "dtmf") and len(self.kept) < MAX_HELD_FRAMES:
            self.kept.append(frame)
        return event == "stop"

    def ring(self) -> list[str]:
        """Return the messages of one ring; none before the stream has begun."""
        if self.stream_id is None:
            return []
        self.has_rung = True
        return [
            json.dumps(self._dialect.media(self.stream_id, ulaw, linear)) for ulaw, linear in _ring_pieces()
        ]

    def silence(self) -> list[str]:
        """Return the messages that end the ringing."""
        if self.stream_id is None or not self.has_rung:
            return []
        return [json.dumps(self._dialect.clear(self.stream_id))]

    def _stream_of(self, message: Mapping[str, Any]) -> str:
        try:
            found = self._dialect.stream_of(message)
        except (KeyError, TypeError):
            found = None
        if not isinstance(found, str) or not 0 < len(found) <= 200:
            raise Unwelcome(1007, "the start message has no id of its stream")
        return found


@functools.cache
def _ring_pieces() -> list[tuple[bytes, bytes]]:
    """Return one ring in pieces: μ-law, and linear samples of 16 bits, little-endian."""
    samples = [
        round(3000 * (math.sin(2 * math.pi * 440 * at / RATE) + math.sin(2 * math.pi * 480 * at / RATE)))
        for at in range(int(RING_SECONDS * RATE))
    ]
    pieces = [samples[at : at + PIECE] for at in range(0, len(samples), PIECE)]
    return [
        (bytes(_ulaw(sample) for sample in piece), struct.pack(f"<{len(piece)}h", *piece)) for piece in pieces
    ]


def _ulaw(sample: int) -> int:
    """Return the μ-law code of a sample of 16 bits (ITU-T G.711)."""
    value = min(abs(sample), 32635) + 132
    exponent = value.bit_length() - 8
    code = (0x80 if sample < 0 else 0) | (exponent << 4) | ((value >> (exponent + 3)) & 0x0F)
    return ~code & 0xFF
