"""The installed transports: entry points of the group `switchboard.transports`."""

from __future__ import annotations

import functools

from dispatcher.plugins import Registry
from dispatcher.transports.settings import TransportSettings

GROUP = "switchboard.transports"


@functools.cache
def transports() -> Registry[TransportSettings]:
    """Return the registry, which is read once."""
    return Registry(GROUP, TransportSettings, "transport")
