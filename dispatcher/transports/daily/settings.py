"""The settings for rooms of Daily."""

from __future__ import annotations

import base64
import binascii
import contextlib
from typing import TYPE_CHECKING, Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from dispatcher.addresses import ADDRESS, is_loopback
from dispatcher.header_secret import HeaderSecret
from dispatcher.plugins import SharedSettings
from dispatcher.transports.settings import RoomEvents, TransportContext, TransportSettings, Webhook

if TYPE_CHECKING:
    from dispatcher.clock import Clock
    from dispatcher.transports.transport import Transport


def _safe_for_the_key(url: str) -> str:
    address = urlsplit(url) if ADDRESS.fullmatch(url) else None
    if address is None or not (address.scheme == "https" or is_loopback(address.hostname or "")):
        shown = "a URL with an @" if "@" in url else repr(url)
        raise ValueError(f"{shown} is not accepted; allowed: https://host/path, or http:// on loopback")
    return url


def _is_base64(secret: SecretStr) -> SecretStr:
    try:
        known = base64.b64decode(secret.get_secret_value(), validate=True)
    except binascii.Error:
        known = b""
    if not known:
        raise ValueError("it is not base64; allowed: `hmac` of the webhook, as Daily gives it")
    return secret


ApiUrl = Annotated[str, AfterValidator(_safe_for_the_key)]
WebhookSecret = Annotated[HeaderSecret, AfterValidator(_is_base64)]


class DailyShared(SharedSettings):
    """Settings of all sessions in rooms of Daily."""

    api_key: HeaderSecret | None = Field(default=None, min_length=8)
    """The API key of the Daily domain in whose rooms sessions over `daily` meet. It reaches no client and no
    machine."""
    domain: str | None = Field(default=None, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """The domain's name: its rooms are at `https://<name>.daily.co/…`."""
    domain_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The domain's id, with which tokens are signed here; without it Daily is asked for two of them at each
    start, before the session is written."""
    webhook_secret: WebhookSecret | None = None
    """The secret that Daily signs its webhooks with, in base64; by default it follows from the API key."""
    api_url: ApiUrl = "https://api.daily.co/v1"
    """Daily's REST API; `http://` on loopback only, because the key goes with every call."""


class DailySettings(TransportSettings):
    """Sessions meet in rooms of Daily."""

    shared: ClassVar[type[SharedSettings]] = DailyShared
    webhook: ClassVar[Webhook | None] = Webhook(
        "Daily's", ("X-Webhook-Signature", "X-Webhook-Timestamp"), "daily_api_key"
    )

    @classmethod
    def check(cls, shared: SharedSettings) -> None:
        daily = DailyShared.of(shared)
        if (daily.api_key is None) != (daily.domain is None):
            missing = "daily_api_key" if daily.api_key is None else "daily_domain"
            raise ValueError(f"{missing} is missing; allowed: both daily_api_key and daily_domain, or none")

    @classmethod
    def missing(cls, shared: SharedSettings) -> str:
        return "" if DailyShared.of(shared).api_key is not None else "daily_api_key and daily_domain"

    @classmethod
    def build(cls, context: TransportContext) -> Transport:
        # Its HTTP client takes a tenth of a second to import; most deployments do without.
        from dispatcher.transports.daily.client import DailyApi
        from dispatcher.transports.daily.transport import Daily

        key, domain, domain_id, url = _account(DailyShared.of(context.shared))
        api = DailyApi(key, url, context.clock, context.http, context.on_room_call)
        return Daily(api, domain, key, domain_id, context.clock)

    @classmethod
    def events(cls, shared: SharedSettings, clock: Clock) -> RoomEvents | None:
        daily = DailyShared.of(shared)
        if daily.api_key is None:
            return None
        from dispatcher.transports.daily.webhooks import DailyWebhooks, derived_secret

        given = None if daily.webhook_secret is None else daily.webhook_secret.get_secret_value()
        return DailyWebhooks(given or derived_secret(daily.api_key.get_secret_value()), clock)

    @classmethod
    async def check_account(cls, context: TransportContext) -> str:
        from dispatcher.transports.daily.client import DailyApi
        from dispatcher.transports.daily.domain import DailyDomain
        from dispatcher.transports.errors import NoAnswer, TooManyCalls

        key, name, domain_id, url = _account(DailyShared.of(context.shared))
        api = DailyApi(key, url, context.clock)
        domain = DailyDomain(api, name, domain_id, context.clock)
        try:
            # No answer: the dispatcher asks again while it serves.
            with contextlib.suppress(NoAnswer, TooManyCalls):
                await domain.look()
        finally:
            await api.close()
        return domain.wrong


def _account(daily: DailyShared) -> tuple[str, str, str | None, str]:
    """Return the key, the domain's name and id, and the API's URL."""
    if daily.api_key is None or daily.domain is None:
        raise AssertionError("nothing is built of settings that are missing")
    return daily.api_key.get_secret_value(), daily.domain, daily.domain_id, daily.api_url
