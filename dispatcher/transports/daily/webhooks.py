"""Daily's webhooks: whether a message is Daily's, of just now, and about one of our rooms.

Each comes with `X-Webhook-Timestamp` and `X-Webhook-Signature`: the HMAC-SHA256 of `<timestamp>.<body>`
under the webhook's secret, in base64, as is the secret itself. Before Daily creates or updates a webhook it
sends a test and wants a 200. What a test looks like may change: whatever is signed and is no event is
answered and ignored, as is the published test whether it is signed or not.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from dispatcher.clock import Clock
from dispatcher.transports.daily.names import session_of
from dispatcher.transports.settings import Forged, RoomEvent

SIGNATURE, TIMESTAMP = "x-webhook-signature", "x-webhook-timestamp"

REPLAY_SECONDS = 1200.0
"""Limit on a message's age, and on a timestamp in the future: clocks differ, and a retry that Daily has
delayed for some 15 min may still have the first attempt's timestamp."""

REMEMBERED = 10_000
"""Limit on the remembered events, so that none counts twice. Beyond it the oldest are forgotten and would
count again; so would an event that comes to another dispatcher. Events are only hints."""

MAX_ID = 200
"""Characters of an event's id; Daily's have some hundred."""

FROM_MILLISECONDS = 1e11
"""Timestamps above this are in milliseconds: Daily does not document the unit. In seconds it is the year
5138, in milliseconds 1973."""

TEST = b'{"test":"test"}'
TEST_BYTES = 64
"""Limit on a test message, including spaces between its parts."""

SENTENCES = {
    "meeting.started": "Daily says that the meeting began.",
    "meeting.ended": "Daily says that the meeting ended.",
    "participant.joined": "Daily says that somebody joined.",
    "participant.left": "Daily says that somebody left.",
}
"""The events that are used; the others are answered and ignored."""


def derived_secret(api_key: str) -> str:
    """Return the default secret of a domain's webhook, in base64, derived from the API key."""
    return base64.b64encode(hmac.digest(api_key.encode(), b"switchboard: webhook", "sha256")).decode()


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
        """Return the event of a message; None for one that is a repetition, or not about a session here.

        Raises:
            Forged: the message is not Daily's, or too old.
        """
        if _is_test(body):
            return None
        self._authenticate(body, headers)
        read = _read(body)
        if read is None:
            return None
        id, event = read
        if event is None or id in self._seen:
            return None
        self._seen[id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return event

    def _authenticate(self, body: bytes, headers: Mapping[str, str]) -> None:
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


def _is_test(body: bytes) -> bool:
    """Return True for the test message. It has no content, so its signature does not matter."""
    # Compared as bytes: an unsigned message is never parsed.
    return len(body) <= TEST_BYTES and b"".join(body.split()) == TEST


def _read(body: bytes) -> tuple[str, RoomEvent | None] | None:
    """Return an event's id, equal for all its deliveries, and the event, if it is about a session.

    None if the message is not an event.
    """
    try:
        event: dict[str, Any] = json.loads(body)
        kind, room, id = event["type"], event.get("payload", {}).get("room"), event["id"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID:
        return None
    session_id = session_of(room) if isinstance(room, str) else None
    if not isinstance(kind, str) or kind not in SENTENCES or session_id is None:
        return id, None
    return id, RoomEvent(session_id, SENTENCES[kind], kind == "meeting.ended")
