"""Settings of phone calls: the accounts at the carriers, and what an agent's callers hear."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import Field
from pydantic.alias_generators import to_camel

from dispatcher.fields import Allowed, ConfigModel

Number = Annotated[str, Field(pattern=r"^(\+[1-9][0-9]{1,14})?$"), Allowed("a number such as +14155550100")]
Spoken = Annotated[str, Field(max_length=3000), Allowed("a text of up to 3000 characters")]
"""3000 is Plivo's limit for `<Speak>`, the lowest of the carriers'."""
SoundUrl = Annotated[
    str,
    Field(pattern=r"^(https://[!-~]+)?$", max_length=1000),
    Allowed("an https:// URL of an MP3 or WAV that the carrier can fetch"),
]
AccountId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$"), Allowed("an account's id")]

SECRETS = {
    "twilio_auth_token": "twilio_account_sid",
    "plivo_auth_token": "plivo_auth_id",
    "exotel_password": "exotel_user",
}
"""Setting of a carrier's secret → the field of `PhoneAccounts` that goes with it."""


class PhoneAccounts(ConfigModel):
    """Accounts at phone carriers. A carrier's webhooks are taken once its account and its secret are set."""

    twilio_account_sid: AccountId = ""
    """SID of the Twilio account, with `twilioAuthToken`. Webhooks of other accounts are refused."""
    telnyx_public_key: Annotated[
        str, Field(pattern=r"^([A-Za-z0-9+/]{43}=)?$"), Allowed("an Ed25519 key, 32 bytes in base64")
    ] = ""
    """Public key of the Telnyx account, from its portal."""
    telnyx_account_sid: AccountId = ""
    """SID of the Telnyx account; by default any account that the key signs for."""
    plivo_auth_id: AccountId = ""
    """Auth ID of the Plivo account, with `plivoAuthToken`."""
    exotel_user: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$"), Allowed("up to 64 letters, digits, dots, _ and -")
    ] = ""
    """User in the URL of Exotel's Voicebot applet, with `exotelPassword`."""
    exotel_account_sid: AccountId = ""
    """SID of the Exotel account; by default any that knows the password."""

    def missing(self, secrets: Collection[str]) -> str:
        """Return what an account lacks, in a sentence; empty if nothing.

        Args:
            secrets: Those of `SECRETS` that are set.
        """
        for secret, field in SECRETS.items():
            has_account = bool(getattr(self, field))
            if has_account != (secret in secrets):
                missing, there = to_camel(secret), f"phone.{to_camel(field)}"
                if not has_account:
                    missing, there = there, missing
                return f"{missing}: is missing, and {there} is there; allowed: both, or none"
        return ""


class AgentPhone(ConfigModel):
    """Sounds and words for callers of an agent, before its bot is there, or if it cannot come."""

    number: Number = ""
    """Number under which the agent is called, for the voice page."""
    greeting: Spoken = ""
    """Text that the carrier speaks while the machine starts; after it, and without it, the caller hears
    ringing until the bot is there."""
    greeting_url: SoundUrl = ""
    """Sound that the carrier plays, instead of the spoken text."""
    queue_seconds: float = Field(default=0.0, ge=0, le=3600)
    """At capacity: how long a caller waits for a slot, hearing ringing, at most `maxQueueSeconds`."""
    forward_to: Number = ""
    """Number to which callers are forwarded when there is no machine for them."""
    message: Spoken = ""
    """Text that callers hear when there is no machine for them, before the carrier hangs up. Without it, and
    without `forwardTo`, they hear the busy tone."""
