"""The transports of a deployment, from its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.clock import Clock
from dispatcher.settings import Settings
from dispatcher.transports.calls import OnRoomCall
from dispatcher.transports.transport import Transport
from dispatcher.transports.turn import Turn
from dispatcher.transports.webrtc import WebRTC

if TYPE_CHECKING:
    import httpx

    from dispatcher.transports.daily_webhooks import DailyWebhooks


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
        from dispatcher.transports.daily import Daily
        from dispatcher.transports.daily_api import DailyApi

        key = settings.daily_api_key.get_secret_value()
        api = DailyApi(key, settings.daily_api_url, clock, daily, on_room_call)
        transports["daily"] = Daily(api, settings.daily_domain, key, settings.daily_domain_id, clock)
    return transports


def _turn(settings: Settings, clock: Clock) -> Turn | None:
    if settings.turn_secret is None:
        return None
    # From the request: the session may have to wait for a line first.
    agents = settings.agents.values()
    lifetime = max(agent.max_queue_seconds + agent.max_duration_seconds for agent in agents)
    return Turn(settings.turn_urls, settings.turn_secret.get_secret_value(), lifetime, clock)


def daily_webhooks(settings: Settings, clock: Clock) -> DailyWebhooks | None:
    """What reads Daily's webhooks, if they are taken."""
    if settings.daily_webhook_secret is None:
        return None
    from dispatcher.transports.daily_webhooks import DailyWebhooks

    return DailyWebhooks(settings.daily_webhook_secret.get_secret_value(), clock)
