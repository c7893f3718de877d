"""Plivo: webhooks of an application's answer URL, and Plivo's XML.

Signatures: https://www.plivo.com/docs/voice/concepts/signature-validation (V3); the SDK's
`validate_v3_signature` is the reference. A signature covers URL, form and a nonce, but no time: a webhook
that comes again is about the same call id, which starts nothing twice.
"""

from __future__ import annotations

import base64
import hmac
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

from dispatcher.telephony import markup
from dispatcher.telephony.markup import element, response, spoken, within
from dispatcher.telephony.webhook import (
    ALONE,
    Answer,
    Around,
    Call,
    Forged,
    Webhook,
    call_of,
    is_same,
    number,
    sip_headers,
)

SIGNATURE, NONCE = "x-plivo-signature-v3", "x-plivo-signature-v3-nonce"

MAX_SIGNATURES = 10
"""Limit on the signatures in one header; there is one for each of an account's auth tokens."""

AUDIO = "audio/x-mulaw;rate=8000"
"""Format that Pipecat's PlivoFrameSerializer expects."""


class Plivo:
    """The carrier `plivo`.

    Args:
        secret: The account's auth token.
    """

    name = "plivo"

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def verify(self, webhook: Webhook, now: float) -> None:
        given = webhook.headers.get(SIGNATURE, "").split(",", MAX_SIGNATURES)[:MAX_SIGNATURES]
        text = f"{_signed(webhook)}.{webhook.headers.get(NONCE, '')}"
        expected = base64.b64encode(hmac.digest(self._secret, text.encode(), "sha256")).decode()
        if not any(is_same(signature, expected) for signature in given):
            raise Forged(f"{SIGNATURE}: it is not the signature of this request")

    def call(self, webhook: Webhook) -> Call:
        own = webhook.query()
        fields = webhook.form() if webhook.method == "POST" else own
        sip = sip_headers(fields, "X-PH-")
        parameters = [*own, *sip] if webhook.method == "POST" else sip
        return call_of(self.name, fields, call_id="CallUUID", account="", parameters=parameters)

    @staticmethod
    def stream(url: str, call: Call, around: Around = ALONE) -> Answer:
        """Connect the call's media stream, both ways."""
        attributes = {"bidirectional": "true", "keepCallAlive": "true", "contentType": AUDIO}
        return markup.around(element("Stream", attributes, url), around, "Speak")

    @staticmethod
    def say(text: str) -> Answer:
        """Speak the text, then hang up."""
        return response(element("Speak", text=spoken(text)), element("Hangup"))

    @staticmethod
    def forward(to: str) -> Answer:
        return response(within("Dial", element("Number", text=number("forward", to))))

    @staticmethod
    def busy() -> Answer:
        return response(element("Hangup", {"reason": "busy"}))

    @staticmethod
    def hang_up() -> Answer:
        return response(element("Hangup"))


def _signed(webhook: Webhook) -> str:
    """Return the text under the signature, up to the nonce."""
    parts = urlsplit(webhook.url)
    base = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    query = "&".join(f"{name}={value}" for name, value in _sorted(webhook.query()))
    form = webhook.form() if webhook.method == "POST" else []
    if query or form:
        base += f"?{query}"
    if query and form:
        base += "."
    return base + "".join(name + value for name, value in _sorted(form))


def _sorted(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    values: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in pairs:
        values[name].append(value)
    return [(name, value) for name in sorted(values) for value in sorted(values[name])]
