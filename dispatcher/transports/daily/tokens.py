"""Daily's meeting tokens, signed here: JWTs (HS256) with the domain's API key as the secret.

Daily documents that it accepts them as long as the key is active, under "Self-signing tokens"; there, too, is
how each property is abbreviated. A token without an expiry would be good for ever, and one without a room for
every room of the domain: ours always have both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt

ABBREVIATED = {
    "room_name": "r",
    "is_owner": "o",
    "exp": "exp",
    "user_id": "ud",
    "user_name": "u",
    "close_tab_on_exit": "ctoe",
    "enable_screenshare": "ss",
    "start_video_off": "vo",
    "start_audio_off": "ao",
    "lang": "uil",
}
"""Property of `/meeting-tokens` → claim, for the properties that are set or allowed here."""


def sign(properties: Mapping[str, Any], api_key: str, domain_id: str, now: float) -> str:
    """Return a signed token with these properties."""
    claims = {ABBREVIATED[name]: value for name, value in properties.items()}
    return jwt.encode({**claims, "d": domain_id, "iat": int(now)}, api_key, algorithm="HS256")
