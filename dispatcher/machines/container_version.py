"""In which version of its API an engine is asked: by the provider, the engine's proxy and the stack's end."""

from __future__ import annotations

import re

PING = "_ping"
"""The one path that has no version before it: what to ask for the newest version that the engine has."""

HEADER = "Api-Version"
"""Of the answer to it."""

OLD, NEW = "v1.41", "v1.44"
"""Docker 29 and later refuse what is older than the new one, which Docker has since 25. The old one is that
of Docker 20.10, which later ones up to 28 have too, and of Podman."""


def chosen(newest: str | None) -> str:
    """The version to ask an engine in, by what its HEADER says: two numbers, such as `1.52`."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", newest or "")
    if match is None:
        return OLD
    major, minor = map(int, NEW.removeprefix("v").split("."))
    return NEW if (int(match[1]), int(match[2])) >= (major, minor) else OLD
