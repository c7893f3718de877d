"""Own STUN and TURN servers, for every cloud: the dispatcher's settings from a stack's config."""

from __future__ import annotations

import json
from typing import Any

from dispatcher.settings import ENVIRONMENT_PREFIX, IceServer, Settings
from stacks.core_config import CoreConfig


def settings_of(config: CoreConfig, of_the_cloud: tuple[IceServer, ...]) -> dict[str, Any]:
    """The dispatcher's settings for these servers, which come behind those of the cloud."""
    found: dict[str, Any] = {}
    if servers := (*of_the_cloud, *(one.server() for one in config.ice_servers)):
        found["ice_servers"] = servers
    if config.turn_urls:
        found |= {"turn_urls": config.turn_urls, "turn_secret": config.turn_secret}
    return found


def secret_variables(config: CoreConfig, settings: Settings) -> dict[str, str]:
    """The secret ones of `settings_of` as the dispatcher's variables: `to_environment` leaves them out."""
    found = {}
    if config.turn_urls:
        found["TURN_SECRET"] = config.turn_secret.get_secret_value()
    if settings.has_ice_credentials:
        servers = [server.model_dump(mode="json", exclude_none=True) for server in settings.ice_servers]
        found["ICE_SERVERS"] = json.dumps(servers)
    return {ENVIRONMENT_PREFIX + name: value for name, value in found.items()}
