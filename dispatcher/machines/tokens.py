"""The machines' tokens: a JWT for one machine, good for its session's life and nothing else."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import jwt

from dispatcher.clock import Clock

AUDIENCE = "switchboard-machine"
SECRET_BYTES = 32

LEEWAY_SECONDS = 300
"""How long a token outlives its machine's deadline: a last word may be late, and clocks differ."""


class InvalidToken(Exception):
    """The token is not one of ours, or its time is up."""


class InvalidSecret(Exception):
    """The signing secret's file does not hold a secret of ours."""


class MachineTokens:
    """Signs and checks the machines' tokens with HS256."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, machine_id: str, lifetime_seconds: float) -> str:
        expires = int(self._clock.now() + lifetime_seconds + LEEWAY_SECONDS)
        claims = {"sub": machine_id, "aud": AUDIENCE, "exp": expires}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def machine_id(self, token: str) -> str:
        """The machine that the token was issued for.

        Raises:
            InvalidToken: it was not issued by us, or has expired.
        """
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"require": ["sub", "aud", "exp"], "verify_exp": False},
            )
        except jwt.InvalidTokenError as error:
            raise InvalidToken(f"the machine token is not valid: {error}") from error
        if claims["exp"] < self._clock.now():
            raise InvalidToken("the machine token has expired")
        return claims["sub"]


def load_or_create_secret(path: Path) -> bytes:
    """The signing secret: 32 random bytes in a file that only its owner reads, made at first use."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
        # A link fails where the file exists: of two dispatchers that start at once, one wins for both.
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
