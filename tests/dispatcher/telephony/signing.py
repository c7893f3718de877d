"""Webhooks as the carriers send them, signed by the carriers' own SDKs.

Telnyx's SDK can only verify: its signatures are made by PyNaCl, which that SDK verifies with.
"""

from __future__ import annotations

import base64
from urllib.parse import urlencode

from nacl.signing import SigningKey
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3
from twilio.request_validator import RequestValidator

from dispatcher.telephony.webhook import Webhook

NOW = 1_700_000_000.0
URL = "https://voice.example/telephony/carrier/echo"
SECRET = "what the carrier and we have in common"
TELNYX_KEY = SigningKey(bytes(range(32)))
TELNYX_PUBLIC = base64.b64encode(bytes(TELNYX_KEY.verify_key)).decode()

TWILIO_FORM = {
    "AccountSid": "AC00000000000000000000000000000001",
    "ApiVersion": "2010-04-01",
    "CallSid": "CA00000000000000000000000000000001",
    "CallStatus": "ringing",
    "Called": "+14155550100",
    "Caller": "+14155550123",
    "Direction": "inbound",
    "From": "+14155550123",
    "FromCity": "",
    "To": "+14155550100",
}
"""https://www.twilio.com/docs/voice/twiml#request-parameters"""

TELNYX_FORM = {
    "AccountSid": "f5586561-8ff0-4291-a51b-c7dfe4139ff9",
    "CallSid": "v3:9X2vxPDFY2RHSJ1EdMS0RHRksMTg7ldNxdjWbVr9zBjbGjGsSe-aiQ",
    "CallStatus": "ringing",
    "ConnectionId": "1234567890",
    "From": "+14155550123",
    "To": "+14155550100",
}
"""https://developers.telnyx.com/api-reference/callbacks/texml-call-answered"""

PLIVO_FORM = {
    "CallStatus": "ringing",
    "CallUUID": "97ceeb52-58b6-11e1-86da-77300b68f8bb",
    "Direction": "inbound",
    "Event": "StartApp",
    "From": "14155550123",
    "To": "14155550100",
}
"""https://www.plivo.com/docs/voice/concepts/callbacks"""

EXOTEL_QUERY = {
    "CallSid": "c2a9ce0b5f2a2c1e7a2f8b5e2f1a198p",
    "From": "09876543210",
    "To": "08047112233",
    "Direction": "incoming",
}


def twilio(
    form: dict[str, str] | None = None, *, url: str = URL, secret: str = SECRET, algorithm: str = ""
) -> Webhook:
    fields = TWILIO_FORM if form is None else form
    headers = {
        "x-twilio-signature": RequestValidator(secret).compute_signature(url, fields, algorithm or None)
    }
    if algorithm:
        headers["x-twilio-webhooks-signature-settings"] = f"key=webhooks_1,algorithm={algorithm}"
    return Webhook("POST", url, headers, urlencode(fields).encode())


def telnyx(
    form: dict[str, str] | None = None,
    *,
    url: str = URL,
    at: float = NOW,
    key: SigningKey = TELNYX_KEY,
) -> Webhook:
    body = urlencode(TELNYX_FORM if form is None else form).encode()
    signature = base64.b64encode(key.sign(f"{at:.0f}|".encode() + body).signature).decode()
    headers = {"telnyx-timestamp": f"{at:.0f}", "telnyx-signature-ed25519": signature}
    return Webhook("POST", url, headers, body)


def plivo(
    form: dict[str, str] | None = None, *, url: str = URL, secret: str = SECRET, method: str = "POST"
) -> Webhook:
    fields = PLIVO_FORM if form is None else form
    nonce = "05429567804466091622"
    if method == "GET":
        url = f"{url}?{urlencode(fields)}"
        text, body = construct_get_url(url, {}), b""
    else:
        text, body = construct_post_url(url, dict(fields)), urlencode(fields).encode()
    signature = get_signature_v3(secret.encode(), text.decode(), nonce).decode()
    headers = {"x-plivo-signature-v3": signature, "x-plivo-signature-v3-nonce": nonce}
    return Webhook(method, url, headers, body)


def exotel(query: dict[str, str] | None = None, *, user: str = "exotel", password: str = SECRET) -> Webhook:
    given = urlencode(EXOTEL_QUERY if query is None else query)
    authorization = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Webhook("GET", f"{URL}?{given}", {"authorization": f"Basic {authorization}"})
