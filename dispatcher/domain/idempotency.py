"""`Idempotency-Key`: the same request under the same key gives the same session. Pure functions."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any

KEPT_SECONDS = 24 * 3600.0
"""Time for which a key gives the same session."""

MAX_KEY_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Claim:
    """A key's claim on a session. `client` is the first answer's content, for repetitions."""

    id: str
    fingerprint: str
    session_id: str
    client: dict[str, Any]
    expires_at: float


class AlreadyClaimed(Exception):
    """Another request came first with the same key."""

    def __init__(self, wanted: Claim, standing: Claim) -> None:
        super().__init__(f"the key stands for session {standing.session_id}")
        self.wanted = wanted
        self.standing = standing


def claim_of(owner: str | None, key: str, request: Any, session_id: str, now: float) -> Claim:
    """Return the claim of a caller's key on the session that the request would start."""
    return Claim(claim_id(owner or "", key), fingerprint(request), session_id, {}, now + KEPT_SECONDS)


def is_key(key: str) -> bool:
    """Return True if it is 1 to 255 visible ASCII characters."""
    return 1 <= len(key) <= MAX_KEY_LENGTH and all("!" <= character <= "~" for character in key)


def is_random(key: str) -> bool:
    """Predicate: it is a UUID of version 4 or 7, of which at least 62 bits are random (RFC 9562)."""
    try:
        parsed = uuid.UUID(key)
    except ValueError:
        return False
    return str(parsed) == key.lower() and parsed.version in (4, 7)


def claim_id(scope: str, key: str) -> str:
    """Return the hash under which a key is stored, together with its scope: keys of different callers never
    meet."""
    return hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest()


def fingerprint(request: Any) -> str:
    """Return a hash that distinguishes requests, whatever their spaces and order of members."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
