"""Exotel: the Voicebot applet's request for the address of a WebSocket, and its answer in JSON.

Described at https://developer.exotel.com/docs/agentstream/stream-voicebot-applet. Exotel signs nothing: it
authenticates by the user and password in the URL that the applet is given, as HTTP's Basic authentication.
A message, a forward or a hang-up is the next applet's in the flow, not an answer.
"""

from __future__ import annotations

import base64
import json

from dispatcher.telephony.webhook import ALONE, Answer, Around, Call, Forged, Webhook, call_of, is_same

_CALLS_OWN = frozenset(
    (
        *("CallSid", "AccountSid", "From", "To", "CallFrom", "CallTo", "Direction", "Created"),
        *("DialWhomNumber", "CurrentTime", "flow_id", "tenant_id", "CallType", "CallStatus", "StartTime"),
        *("EndTime", "DialCallDuration", "RecordingUrl", "ForwardedFrom"),
    )
)
"""Fields that Exotel adds to the applet's URL; the others are the deployment's own."""


class Exotel:
    """The carrier `exotel`.

    Args:
        user: The user in the applet's URL.
        password: The password in the applet's URL.
        account: The account's SID; empty to accept any that knows the password.
    """

    name = "exotel"

    def __init__(self, user: str, password: str, account: str = "") -> None:
        self._credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._account = account

    def verify(self, webhook: Webhook, now: float) -> None:
        scheme, _, given = webhook.headers.get("authorization", "").partition(" ")
        if not is_same(given.strip(), self._credentials) or scheme.lower() != "basic":
            raise Forged("authorization: allowed are the applet's own user and password (Basic)")

    def call(self, webhook: Webhook) -> Call:
        fields = webhook.form() if webhook.method == "POST" else webhook.query()
        found = call_of(
            self.name,
            fields,
            call_id="CallSid",
            account="AccountSid",
            caller=("From", "CallFrom"),
            called=("To", "CallTo"),
            parameters=[(name, value) for name, value in fields if name not in _CALLS_OWN],
        )
        if self._account and found.account not in ("", self._account):
            raise Forged("AccountSid: it is another account's")
        return found

    @staticmethod
    def stream(url: str, call: Call, around: Around = ALONE) -> Answer:
        """Name the WebSocket that Exotel opens."""
        return Answer("application/json", json.dumps({"url": url}))
