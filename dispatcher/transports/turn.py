"""Short-lived credentials for a TURN server that shares a secret with us, one pair for each session.

The convention is draft-uberti-behave-turn-rest-00, which coturn (`use-auth-secret`) and others keep: the user
name is `<when it expires, Unix seconds>:<anything>`, the password its HMAC-SHA1 under the secret, in base64.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Any

from dispatcher.clock import Clock


class Turn:
    """Mints credentials for these servers.

    Args:
        urls: The servers', such as `turn:turn.example:3478?transport=udp`.
        lifetime_seconds: How long a credential opens relays; one that is open stays so.
    """

    def __init__(self, urls: Sequence[str], secret: str, lifetime_seconds: float, clock: Clock) -> None:
        self._urls = tuple(urls)
        self._secret = secret.encode()
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock

    def server(self, session_id: str) -> dict[str, Any]:
        """The servers with a credential of this session's, in the shape of a browser's RTCIceServer."""
        username = f"{int(self._clock.now() + self._lifetime_seconds)}:{session_id}"
        digest = hmac.digest(self._secret, username.encode(), "sha1")
        return {
            "urls": list(self._urls),
            "username": username,
            "credential": base64.b64encode(digest).decode(),
        }
