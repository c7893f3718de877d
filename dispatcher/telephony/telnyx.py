"""Telnyx: webhooks of a TeXML application, and TeXML.

Signatures: https://developers.telnyx.com/development/api-fundamentals/webhooks; the SDK's `webhooks.unwrap`
is the reference. A signature covers time and body, but not the URL: its query is not read.
"""

from __future__ import annotations

import base64
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dispatcher.telephony import markup
from dispatcher.telephony.markup import TwimlAnswers, element, within
from dispatcher.telephony.webhook import ALONE, Answer, Around, Call, Forged, Webhook, call_of, sip_headers

SIGNATURE, TIMESTAMP = "telnyx-signature-ed25519", "telnyx-timestamp"

MAX_AGE_SECONDS = 300.0
"""Limit on a webhook's age, and on a time in the future: the SDK's own."""


class Telnyx(TwimlAnswers):
    """The carrier `telnyx`.

    Args:
        public_key: The account's public key, in base64.
        account: The account's SID; empty to accept any that the key signs.

    Raises:
        ValueError: the key is not one.
    """

    name = "telnyx"

    def __init__(self, public_key: str, account: str = "") -> None:
        try:
            self._key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        except ValueError as error:
            raise ValueError("publicKey: allowed is an Ed25519 key, 32 bytes in base64") from error
        self._account = account

    def verify(self, webhook: Webhook, now: float) -> None:
        timestamp = webhook.headers.get(TIMESTAMP, "")
        if not re.fullmatch(r"[0-9]{1,12}", timestamp):
            raise Forged(f"{TIMESTAMP}: allowed are seconds since 1970")
        try:
            signature = base64.b64decode(webhook.headers.get(SIGNATURE, ""), validate=True)
            self._key.verify(signature, timestamp.encode() + b"|" + webhook.body)
        except (ValueError, InvalidSignature) as error:
            raise Forged(f"{SIGNATURE}: it is not the signature of this request") from error
        if abs(now - int(timestamp)) > MAX_AGE_SECONDS:
            raise Forged(f"{TIMESTAMP}: it is more than {MAX_AGE_SECONDS:.0f} s from now")

    def call(self, webhook: Webhook) -> Call:
        fields = webhook.form()
        sip = sip_headers(fields, "SipHeader_")
        found = call_of(self.name, fields, call_id="CallSid", account="AccountSid", parameters=sip)
        if self._account and found.account != self._account:
            raise Forged("AccountSid: it is another account's")
        return found

    @staticmethod
    def stream(url: str, call: Call, around: Around = ALONE) -> Answer:
        """Connect the call's media stream; Telnyx itself tells the numbers in its first message."""
        return markup.around(
            within("Connect", element("Stream", {"url": url, "bidirectionalMode": "rtp"})), around, "Say"
        )
