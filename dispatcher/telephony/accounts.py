"""The carriers of a deployment, built from its accounts."""

from __future__ import annotations

from collections.abc import Mapping

from dispatcher.telephony.exotel import Exotel
from dispatcher.telephony.plivo import Plivo
from dispatcher.telephony.settings import PhoneAccounts
from dispatcher.telephony.telnyx import Telnyx
from dispatcher.telephony.twilio import Twilio
from dispatcher.telephony.webhook import Carrier


def carriers_of(accounts: PhoneAccounts, secrets: Mapping[str, str]) -> dict[str, Carrier]:
    """Return name → carrier, of those that have an account.

    Args:
        secrets: Setting → value of those that are set.
    """
    found: dict[str, Carrier] = {}
    if token := secrets.get("twilio_auth_token"):
        found["twilio"] = Twilio(token, accounts.twilio_account_sid)
    if accounts.telnyx_public_key:
        found["telnyx"] = Telnyx(accounts.telnyx_public_key, accounts.telnyx_account_sid)
    if token := secrets.get("plivo_auth_token"):
        found["plivo"] = Plivo(token)
    if password := secrets.get("exotel_password"):
        found["exotel"] = Exotel(accounts.exotel_user, password, accounts.exotel_account_sid)
    return found
