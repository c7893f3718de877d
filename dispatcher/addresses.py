"""Addresses of servers: their form, and who can reach them."""

from __future__ import annotations

import ipaddress
import re

ADDRESS = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?(?P<path>(/[A-Za-z0-9._~/-]*)?)"
)
"""A web server's URL, without user, query or fragment, so that a path can be appended."""


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a server that is bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
