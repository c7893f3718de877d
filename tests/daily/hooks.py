"""Webhooks of the fake Daily: created, updated, listed, deleted, and sent.

From docs.daily.co, "Webhooks" ("Add a credit card to your account to unlock access to webhooks") and
"Create a webhook": a test request goes to the URL, and anything but a 200 makes the call a 400. How a
message is signed is on the first of these pages. The domain has one webhook at the most in this fake: Daily
limits their number.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

TEST = b'{"test":"test"}'

Post = Callable[[str, bytes, dict[str, str]], Awaitable[int]]
"""Sends a message to a webhook's URL and returns the answer's status."""


def signed(body: bytes, secret: str, now: float) -> dict[str, str]:
    """The headers of a message."""
    timestamp = f"{now * 1000:.0f}"
    digest = hmac.digest(base64.b64decode(secret), f"{timestamp}.".encode() + body, "sha256")
    return {"X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": base64.b64encode(digest).decode()}


class Webhooks:
    """The webhooks of one domain.

    Args:
        post: Sends the messages.
    """

    def __init__(self, now: Callable[[], float], post: Post | None) -> None:
        self._now = now
        self._post = post
        self.all: dict[str, dict[str, Any]] = {}
        self.test = TEST
        """Message that is sent before a webhook is created or updated."""
        self.signs_test = True

    async def save(self, body: dict[str, Any], uuid_: str | None = None) -> dict[str, Any] | None:
        """Create or update a webhook; None if its URL does not answer the test with 200."""
        hook = dict(self.all.get(uuid_ or "", {})) or {
            "uuid": str(uuid.uuid4()),
            "retryType": "circuit-breaker",
            "eventTypes": [],
            "hmac": base64.b64encode(secrets.token_bytes(32)).decode(),
        }
        hook |= {**body, "state": "ACTIVE", "failedCount": 0}
        if await self._send(hook, self.test, sign=self.signs_test) != 200:
            return None
        self.all[hook["uuid"]] = hook
        return hook

    async def tell(self, event: dict[str, Any]) -> list[int]:
        """Send an event to the webhooks that want it; return the statuses of the answers."""
        body = json.dumps(event).encode()
        wanted = [hook for hook in self.all.values() if event["type"] in hook["eventTypes"]]
        return [await self._send(hook, body, sign=True) for hook in wanted]

    async def _send(self, hook: dict[str, Any], body: bytes, *, sign: bool) -> int:
        if self._post is None:
            return 0
        headers = signed(body, hook["hmac"], self._now()) if sign else {}
        return await self._post(hook["url"], body, headers)
