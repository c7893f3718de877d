"""Phone carriers as a dispatcher sees them: signed webhooks, their instructions followed, their streams.

Messages as in https://www.twilio.com/docs/voice/media-streams/websocket-messages,
https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming,
https://www.plivo.com/docs/voice/concepts/audio-streaming and
https://developer.exotel.com/docs/agentstream/stream-voicebot-applet.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import httpx

from dispatcher.telephony.webhook import Webhook
from tests.dispatcher.telephony import signing

TWILIO_ACCOUNT = signing.TWILIO_FORM["AccountSid"]
ACCOUNTS = {
    "twilioAccountSid": TWILIO_ACCOUNT,
    "telnyxPublicKey": signing.TELNYX_PUBLIC,
    "plivoAuthId": "MAXXXXXXXXXXXXXXXXXX",
    "exotelUser": "exotel",
}
SECRETS = dict.fromkeys(("twilio_auth_token", "plivo_auth_token", "exotel_password"), signing.SECRET)
NAMES = ("twilio", "telnyx", "plivo", "exotel")


@dataclass
class FakeCall:
    """One incoming call at one carrier.

    Args:
        now: Returns the Unix time that the carrier signs.
    """

    carrier: str
    id: str = "call-1"
    caller: str = "+14155550123"
    called: str = "+14155550100"
    secret: str = signing.SECRET
    now: Callable[[], float] = time.time
    more: Mapping[str, str] = field(default_factory=dict)
    """Other fields of the webhook."""

    def webhook(self, url: str) -> httpx.Request:
        """Return the webhook to this URL, as the carrier's SDK signs it."""
        numbers = {"From": self.caller, "To": self.called}
        match self.carrier:
            case "twilio":
                form = {**signing.TWILIO_FORM, **numbers, "CallSid": self.id, **self.more}
                return _request(signing.twilio(form, url=url, secret=self.secret))
            case "telnyx":
                form = {**signing.TELNYX_FORM, **numbers, "CallSid": self.id, **self.more}
                return _request(signing.telnyx(form, url=url, at=self.now()))
            case "plivo":
                form = {**signing.PLIVO_FORM, **numbers, "CallUUID": self.id, **self.more}
                return _request(signing.plivo(form, url=url, secret=self.secret))
            case _:
                query = urlencode({**signing.EXOTEL_QUERY, **numbers, "CallSid": self.id, **self.more})
                basic = base64.b64encode(f"exotel:{self.secret}".encode()).decode()
                return httpx.Request("GET", f"{url}?{query}", headers={"authorization": f"Basic {basic}"})

    def opening(self, parameters: Mapping[str, str]) -> list[str]:
        """Return the stream's first messages."""
        match self.carrier:
            case "twilio":
                call = {"streamSid": "MZ1", "callSid": self.id, "accountSid": TWILIO_ACCOUNT}
                begin = {**call, "customParameters": dict(parameters)}
                found = [
                    {"event": "connected", "protocol": "Call", "version": "1.0.0"},
                    {"event": "start", "sequenceNumber": "1", "start": begin, "streamSid": "MZ1"},
                ]
            case "telnyx":
                format = {"encoding": "PCMU", "sample_rate": 8000, "channels": 1}
                begin = {"call_control_id": self.id, "media_format": format}
                begin |= {"from": self.caller, "to": self.called}
                found = [
                    {"event": "connected", "version": "1.0.0"},
                    {"event": "start", "sequence_number": "1", "start": begin, "stream_id": "MZ1"},
                ]
            case "plivo":
                format = {"encoding": "audio/x-mulaw", "sampleRate": 8000}
                begin = {"callId": self.id, "streamId": "MZ1", "accountId": "MA1", "mediaFormat": format}
                found = [{"sequenceNumber": 0, "event": "start", "start": begin, "extra_headers": "{}"}]
            case _:
                begin = {"stream_sid": "MZ1", "call_sid": self.id, "account_sid": "AC1"}
                begin |= {"from": self.caller, "to": self.called, "custom_parameters": {}}
                found = [
                    {"event": "connected"},
                    {"event": "start", "sequence_number": 1, "stream_sid": "MZ1", "start": begin},
                ]
        return [json.dumps(message) for message in found]

    def media(self, sound: bytes) -> str:
        """Return 20 ms of the caller's sound: μ-law, for Exotel linear samples."""
        payload = base64.b64encode(sound).decode()
        name = {"twilio": "streamSid", "telnyx": "stream_id", "plivo": "streamId", "exotel": "stream_sid"}
        return json.dumps({"event": "media", name[self.carrier]: "MZ1", "media": {"payload": payload}})

    def heard(self, message: Mapping[str, Any]) -> bytes:
        """Return the sound in a message to the caller; nothing if it is none."""
        if message["event"] not in ("media", "playAudio"):
            return b""
        assert message["event"] == ("playAudio" if self.carrier == "plivo" else "media")
        return base64.b64decode(message["media"]["payload"])

    def stop(self) -> str:
        return json.dumps({"event": "stop", "streamSid": "MZ1", "stop": {"callSid": self.id}})


@dataclass(frozen=True)
class Instructions:
    """A webhook's answer, as the carrier reads it."""

    said: str = ""
    played: str = ""
    stream: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    then: str = ""
    forwarded_to: str = ""
    verbs: tuple[str, ...] = ()


def read(answer: httpx.Response) -> Instructions:
    """Read an answer with status 200."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        return Instructions(stream=answer.json()["url"])
    root = ElementTree.fromstring(answer.text)
    assert root.tag == "Response"
    stream = root.find(".//Stream")
    address = "" if stream is None else stream.get("url") or stream.text or ""
    parameters = {one.get("name", ""): one.get("value", "") for one in root.iter("Parameter")}
    number = root.find("Dial/Number")

    return Instructions(
        root.findtext("Say") or root.findtext("Speak") or "",
        root.findtext("Play") or "",
        address,
        parameters,
        root.findtext("Redirect") or "",
        (root.findtext("Dial") or "" if number is None else number.text) or "",
        tuple(child.tag for child in root),
    )


def _request(webhook: Webhook) -> httpx.Request:
    headers = {"content-type": "application/x-www-form-urlencoded", **webhook.headers}
    return httpx.Request(webhook.method, webhook.url, headers=headers, content=webhook.body)
