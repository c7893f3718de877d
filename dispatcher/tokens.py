"""Tokens of machines and of sessions: signed JWTs that name their subject, their audience and their expiry.

machine   good for one machine, for its session's life, and for the channel alone
session   all that a client needs for its session, without the key that started it
socket    good for the client's WebSocket of one session, and for nothing else: it is part of a URL
call      the same for a phone call's stream; it names the carrier, and is good for five minutes
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import jwt

from dispatcher.clock import Clock
from dispatcher.domain.model import Session

MACHINES = "switchboard-machine"
SESSIONS = "switchboard-session"
SOCKETS = "switchboard-socket"
CALLS = "switchboard-call"
"""The audiences."""

SECRET_BYTES = 32

LEEWAY_SECONDS = 300
"""Time that a token outlives its subject: `ended` may arrive late, and clocks differ."""


class InvalidToken(Exception):
    """The token was not signed here, is for another audience, or has expired."""


class InvalidSecret(Exception):
    """The signing secret's file does not contain a valid secret."""


class Signer:
    """Signs with the first secret and accepts all of them (HS256), so that a secret can be replaced."""

    def __init__(self, secrets: Sequence[bytes], clock: Clock) -> None:
        self._secrets = tuple(secrets)
        self._clock = clock

    def sign(self, subject: str, audience: str, until: float) -> str:
        """Return a token about `subject`, for `audience`, valid until that Unix time plus `LEEWAY_SECONDS`.

        Deterministic: the same arguments give the same token.
        """
        claims = {"sub": subject, "aud": audience, "exp": int(until + LEEWAY_SECONDS)}
        return jwt.encode(claims, self._secrets[0], algorithm="HS256")

    def fingerprint(self, text: str) -> str:
        """Return a fingerprint (64 hexadecimal digits) that tells nobody without the secret what the text
        may be."""
        return hmac.new(self._secrets[0], text.encode(), hashlib.sha256).hexdigest()

    def subject(self, token: str, audience: str) -> str:
        """Return the token's subject.

        Raises:
            InvalidToken: it was not signed here, is for another audience, or has expired.
        """
        fault = jwt.InvalidTokenError("there is no secret")
        for secret in self._secrets:
            try:
                claims = jwt.decode(
                    token,
                    secret,
                    algorithms=["HS256"],
                    audience=audience,
                    # The expiry is checked below, against the injected clock.
                    options={"require": ["sub", "aud", "exp"], "verify_exp": False},
                )
            except jwt.InvalidTokenError as error:
                fault = error
                continue
            if claims["exp"] < self._clock.now():
                raise InvalidToken("the token has expired")
            return claims["sub"]
        raise InvalidToken(f"the token is not valid: {fault}") from fault


class MachineTokens:
    """Issues and checks machines' tokens."""

    def __init__(self, signer: Signer, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock

    def issue(self, machine_id: str, lifetime_seconds: float) -> str:
        return self._signer.sign(machine_id, MACHINES, self._clock.now() + lifetime_seconds)

    def fingerprint(self, text: str) -> str:
        """Return a fingerprint of what machines are made from, secrets among it."""
        return self._signer.fingerprint(text)

    def machine_id(self, token: str) -> str:
        """Return the machine that the token was issued for.

        Raises:
            InvalidToken: it was not issued here for a machine, or has expired.
        """
        return self._signer.subject(token, MACHINES)


class SessionTokens:
    """Issues and checks the sessions' tokens."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def issue(self, session: Session) -> str:
        """The session's token, good until its latest possible deadline; for one session always the same."""
        longest = session.queue_seconds + session.max_duration_seconds
        return self._signer.sign(session.id, SESSIONS, session.created_at + longest)

    def session_id(self, token: str) -> str:
        """The session that the token was issued for.

        Raises:
            InvalidToken: it was not issued by us for a session, or has expired.
        """
        return self._signer.subject(token, SESSIONS)

    def issue_for_socket(self, session: Session) -> str:
        """Return the token for the session's WebSocket, good for as long as the session's own."""
        longest = session.queue_seconds + session.max_duration_seconds
        return self._signer.sign(session.id, SOCKETS, session.created_at + longest)

    def socket_session_id(self, token: str) -> str:
        """Return the session for whose WebSocket the token was issued.

        Raises:
            InvalidToken: it was not issued here for a WebSocket, or has expired.
        """
        return self._signer.subject(token, SOCKETS)

    def issue_for_call(self, session: Session, carrier: str) -> str:
        """Return the token for the stream of a session's call, good for `LEEWAY_SECONDS` from its start: as
        long as Pipecat Cloud's. For one session always the same."""
        return self._signer.sign(f"{carrier}/{session.id}", CALLS, session.created_at)

    def call_of(self, token: str) -> tuple[str, str]:
        """Return the carrier and the session for whose call the token was issued.

        Raises:
            InvalidToken: it was not issued here for a call, or has expired.
        """
        carrier, _, session_id = self._signer.subject(token, CALLS).partition("/")
        return carrier, session_id


def load_or_create_secret(path: Path) -> bytes:
    """Return the signing secret: 32 random bytes in a file that only its owner can read, created on first
    use."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
        # A link fails if the file exists: of two dispatchers that start at once, both use the first one's.
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        found = f"{path} has {len(secret)} bytes, not {SECRET_BYTES}"
        raise InvalidSecret(f"{found}; delete it to get a new secret")
    return secret
