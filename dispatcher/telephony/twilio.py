"""Twilio: webhooks of a number's "A call comes in", and TwiML.

Signatures: https://www.twilio.com/docs/usage/webhooks/webhooks-security; the SDK's `RequestValidator` is
the reference. A signature covers URL and form but no time, so that age cannot be told: a webhook that comes
again is about the same call id, which starts nothing twice.
"""

from __future__ import annotations

import base64
import hmac
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from dispatcher.telephony import markup
from dispatcher.telephony.markup import TwimlAnswers, add, element, within
from dispatcher.telephony.webhook import (
    ALONE,
    Answer,
    Around,
    Call,
    Forged,
    Webhook,
    call_of,
    is_same,
    sip_headers,
)

SIGNATURE = "x-twilio-signature"
SETTINGS = "x-twilio-webhooks-signature-settings"
"""Header of webhooks that are signed with a shared key: `key=…,algorithm=…`."""

_DIGESTS = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}
_PORTS = {"https": 443, "http": 80}


class Twilio(TwimlAnswers):
    """The carrier `twilio`.

    Args:
        secret: The account's auth token, or the secret of a shared key.
        account: The account's SID; empty to accept any that the secret signs.
    """

    name = "twilio"

    def __init__(self, secret: str, account: str = "") -> None:
        self._secret = secret.encode()
        self._account = account

    def verify(self, webhook: Webhook, now: float) -> None:
        given = webhook.headers.get(SIGNATURE, "")
        digest = _DIGESTS.get(_algorithm(webhook.headers.get(SETTINGS, "")))
        if digest is None:
            raise Forged(f"{SETTINGS}: allowed are the algorithms {', '.join(_DIGESTS)}")
        fields = _signed_fields(webhook.form() if webhook.method == "POST" else ())
        # Twilio signs the URL with its port or without.
        matches = [
            is_same(given, _signature(self._secret, url + fields, digest))
            for url in _with_and_without_port(webhook.url)
        ]
        if not any(matches):
            raise Forged(f"{SIGNATURE}: it is not the signature of this request")

    def call(self, webhook: Webhook) -> Call:
        own = webhook.query()
        fields = webhook.form() if webhook.method == "POST" else own
        sip = sip_headers(fields, "SipHeader_")
        parameters = [*own, *sip] if webhook.method == "POST" else sip
        found = call_of(self.name, fields, call_id="CallSid", account="AccountSid", parameters=parameters)
        if self._account and found.account != self._account:
            raise Forged("AccountSid: it is another account's")
        return found

    @staticmethod
    def stream(url: str, call: Call, around: Around = ALONE) -> Answer:
        """Connect the call's media stream, with the numbers where Pipecat's runner reads them."""
        made = element("Stream", {"url": url})
        for name, value in {"from_number": call.caller, "to_number": call.called, **call.parameters}.items():
            add(made, "Parameter", {"name": name, "value": value})
        return markup.around(within("Connect", made), around, "Say")


def _algorithm(settings: str) -> str:
    for part in settings.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm" and value.strip():
            return value.strip().upper()
    return "HMAC_SHA1"


def _signed_fields(fields: Iterable[tuple[str, str]]) -> str:
    values: defaultdict[str, set[str]] = defaultdict(set)
    for name, value in fields:
        values[name].add(value)
    return "".join(name + value for name in sorted(values) for value in sorted(values[name]))


def _signature(secret: bytes, text: str, digest: str) -> str:
    return base64.b64encode(hmac.digest(secret, text.encode(), digest)).decode()


def _with_and_without_port(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.port is not None:
        return url, _at(parts, parts.netloc.rpartition(":")[0])
    return url, _at(parts, f"{parts.netloc}:{_PORTS.get(parts.scheme, 80)}")


def _at(parts: SplitResult, netloc: str) -> str:
    return parts._replace(netloc=netloc).geturl()
