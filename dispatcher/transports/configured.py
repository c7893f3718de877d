"""The transports of a deployment, from its settings."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dispatcher.clock import Clock
from dispatcher.settings import Settings
from dispatcher.transports.calls import OnRoomCall
from dispatcher.transports.errors import NoAnswer, TooManyCalls
from dispatcher.transports.transport import Transport
from dispatcher.transports.turn import Turn
from dispatcher.transports.webrtc.transport import WebRTC

if TYPE_CHECKING:
    import httpx

    from dispatcher.transports.daily.webhooks import DailyWebhooks


def configured(
    settings: Settings,
    clock: Clock,
    daily: httpx.AsyncBaseTransport | None,
    on_room_call: OnRoomCall,
) -> dict[str, Transport]:
    """Name → transport.

    Args:
        daily: Answers in the place of Daily's API.
        on_room_call: Is told of every call to it.
    """
    transports: dict[str, Transport] = {"webrtc": WebRTC(settings.ice_servers, _turn(settings, clock))}
    if settings.daily_api_key is not None and settings.daily_domain is not None:
        # Its HTTP client takes a tenth of a second to import; most deployments do without.
        from dispatcher.transports.daily.client import DailyApi
        from dispatcher.transports.daily.transport import Daily

        key = settings.daily_api_key.get_secret_value()
        api = DailyApi(key, settings.daily_api_url, clock, daily, on_room_call)
        transports["daily"] = Daily(api, settings.daily_domain, key, settings.daily_domain_id, clock)
    return transports


async def check_daily(settings: Settings, clock: Clock) -> str:
    """Say what is wrong with the settings for Daily; empty if nothing is, or Daily does not answer."""
    if settings.daily_api_key is None or settings.daily_domain is None:
        return ""
    from dispatcher.transports.daily.client import DailyApi
    from dispatcher.transports.daily.domain import DailyDomain

    api = DailyApi(settings.daily_api_key.get_secret_value(), settings.daily_api_url, clock)
    domain = DailyDomain(api, settings.daily_domain, settings.daily_domain_id, clock)
    try:
        # No answer: it is asked for again while the dispatcher serves.
        with contextlib.suppress(NoAnswer, TooManyCalls):
            await domain.look()
    finally:
        await api.close()
    return domain.wrong


def _turn(settings: Settings, clock: Clock) -> Turn | None:
    if settings.turn_secret is None:
        return None
    # From the request: the session may have to wait for a line first.
    agents = settings.agents.values()
    lifetime = max(agent.max_queue_seconds + agent.max_duration_seconds for agent in agents)
    return Turn(settings.turn_urls, settings.turn_secret.get_secret_value(), lifetime, clock)


def daily_webhooks(settings: Settings, clock: Clock) -> DailyWebhooks | None:
    """Return the reader of Daily's webhooks, where there are rooms at Daily."""
    if settings.daily_api_key is None:
        return None
    from dispatcher.transports.daily.webhooks import DailyWebhooks, derived_secret

    secret = settings.daily_webhook_secret
    given = None if secret is None else secret.get_secret_value()
    return DailyWebhooks(given or derived_secret(settings.daily_api_key.get_secret_value()), clock)
