"""Daily's webhooks: whether a message is Daily's, of just now, and about one of our rooms.

Each comes with `X-Webhook-Timestamp` and `X-Webhook-Signature`: the HMAC-SHA256 of `<timestamp>.<body>` under
the webhook's secret, in base64, as is the secret itself. When a webhook is created, Daily sends a test
message and wants a 200.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.clock import Clock
from dispatcher.transports.daily_names import session_of

SIGNATURE, TIMESTAMP = "x-webhook-signature", "x-webhook-timestamp"

REPLAY_SECONDS = 300.0
"""A message that is older, or from so far in the future, is not taken: clocks differ, and an answer may take
some attempts."""

REMEMBERED = 10_000
"""Messages that are known within that time, so that none counts twice. Should more come, the oldest are
forgotten, and would count again: they are hints."""

FROM_MILLISECONDS = 1e11
"""Daily's documentation does not say in which unit the timestamp is. So many seconds are the year 5138, so
many milliseconds were 1973."""

TEST = b'{"test":"test"}'
TEST_BYTES = 64
"""Of a test message, at most, with the spaces that are between its parts."""

SENTENCES = {
    "meeting.started": "Daily says that the meeting began.",
    "meeting.ended": "Daily says that the meeting ended.",
    "participant.joined": "Daily says that somebody joined.",
    "participant.left": "Daily says that somebody left.",
}
"""The events that tell us anything; the others are answered and forgotten."""


class Forged(Exception):
    """The message is not Daily's, or not of just now; the text says which, for the person who set it up."""


class Unreadable(Exception):
    """The message is Daily's, and no event."""


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """What happened in the room of a session."""

    session_id: str
    message: str
    """For people."""
    is_end: bool
    """Whether nobody is in the room any more."""


class DailyWebhooks:
    """Reads webhooks.

    Args:
        secret: The webhook's `hmac`, in base64.
    """

    def __init__(self, secret: str, clock: Clock) -> None:
        self._secret = base64.b64decode(secret)
        self._clock = clock
        self._seen: OrderedDict[str, None] = OrderedDict()

    def read(self, body: bytes, headers: Mapping[str, str]) -> RoomEvent | None:
        """The event of a message; None for one that says nothing about a session of ours, or says it again.

        Raises:
            Forged: the message is not Daily's, or not of just now.
            Unreadable: it is, and is no event.
        """
        if _is_test(body):
            return None
        signature = self._authentic(body, headers)
        if signature in self._seen:
            return None
        event = _read(body)
        self._seen[signature] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return event

    def _authentic(self, body: bytes, headers: Mapping[str, str]) -> str:
        timestamp, signature = headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, "")
        if not timestamp or not signature:
            raise Forged(f"{TIMESTAMP} and {SIGNATURE} are needed.")
        signed = timestamp.encode() + b"." + body
        expected = base64.b64encode(hmac.digest(self._secret, signed, "sha256"))
        if not hmac.compare_digest(expected, signature.encode()):
            raise Forged("The signature is not that of the webhook's secret.")
        if not (timestamp.isascii() and timestamp.isdigit()):
            raise Forged(f"{TIMESTAMP} is not a unix time.")
        at = float(timestamp)
        at = at / 1000 if at >= FROM_MILLISECONDS else at
        if abs(self._clock.now() - at) > REPLAY_SECONDS:
            raise Forged(f"The message is not of the last {REPLAY_SECONDS:.0f} s.")
        return signature


def _is_test(body: bytes) -> bool:
    """Whether it is the test message. It says nothing, so whether it is signed makes no difference."""
    # By its bytes: what anybody may have sent is not parsed.
    return len(body) <= TEST_BYTES and b"".join(body.split()) == TEST


def _read(body: bytes) -> RoomEvent | None:
    try:
        event: dict[str, Any] = json.loads(body)
        kind, room = event["type"], event.get("payload", {}).get("room")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Unreadable(f"The message is no event: {type(error).__name__}.") from error
    session_id = session_of(room) if isinstance(room, str) else None
    if not isinstance(kind, str) or kind not in SENTENCES or session_id is None:
        return None
    return RoomEvent(session_id, SENTENCES[kind], kind == "meeting.ended")
