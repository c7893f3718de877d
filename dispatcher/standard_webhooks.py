"""Webhooks as Standard Webhooks 1.0 specifies them: the form of URL and secrets, and the signatures.

A message is signed by HMAC-SHA256 over its id, the time and its body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from dispatcher.fields import Allowed

PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
"""Lengths of a secret that the specification allows."""
SECRET_WORDS = f"{PREFIX} and 24 to 64 random bytes in base64, as `openssl rand -base64 32` prints them"


def key_of(secret: str) -> bytes:
    """Return the bytes of a secret. Raises ValueError, without the secret, if it has another form."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"it is not base64; allowed: {SECRET_WORDS}") from None
    if not secret.startswith(PREFIX) or len(key) not in SECRET_BYTES:
        raise ValueError(f"it has another form; allowed: {SECRET_WORDS}")
    return key


def _checked(secret: SecretStr) -> SecretStr:
    key_of(secret.get_secret_value())
    return secret


def _checked_if_given(secret: SecretStr) -> SecretStr:
    return _checked(secret) if secret.get_secret_value() else secret


WebhookSecret = Annotated[SecretStr, AfterValidator(_checked), Allowed(SECRET_WORDS)]
OptionalWebhookSecret = Annotated[SecretStr, AfterValidator(_checked_if_given), Allowed(SECRET_WORDS)]
"""A secret, or nothing: a stack's engine gives a key without a value as an empty text."""


_WEBHOOK_URL = r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?(/[!-~]*)?"
_WEBHOOK_URL_WORDS = Allowed("http(s)://host or http(s)://host:port, with a path or without, and no user")
WebhookUrl = Annotated[str, Field(max_length=2000, pattern=f"^{_WEBHOOK_URL}$"), _WEBHOOK_URL_WORDS]
OptionalWebhookUrl = Annotated[
    str, Field(max_length=2000, pattern=f"^({_WEBHOOK_URL})?$"), _WEBHOOK_URL_WORDS
]
"""A URL, or nothing: a stack's engine gives a key without a value as an empty text."""


def headers(message_id: str, at: int, body: bytes, keys: Iterable[bytes]) -> dict[str, str]:
    """Return the headers of a signed message.

    Args:
        at: Unix seconds of this attempt: receivers refuse a message that is minutes old.
        keys: Keys that sign. With two, receivers may know either.
    """
    signed = f"{message_id}.{at}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
