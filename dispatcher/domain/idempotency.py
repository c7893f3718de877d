"""`Idempotency-Key`: the same request under the same key is the same session. Values in, values out."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any

KEPT_SECONDS = 24 * 3600.0
"""How long a key stands for its session."""

MAX_KEY_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Claim:
    """A key's hold on a session. `client` is what the first answer told the client, for the next ones."""

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
    """Return the hold of a caller's key on the session that the request is to start."""
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
    """A key is its caller's own. It is kept as a hash: of one length, and whatever it contains."""
    return hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest()


def fingerprint(request: Any) -> str:
    """Tells one request from another. Spaces and the order of members make no difference."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
