"""A table of agents' images, as a stack writes it and a dispatcher reads it. Only the standard library is
imported here: a stack's program reads it at each run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

IN_USE_SUFFIX = ".in-use"
"""Suffix of the dispatcher's own file, with the images in use, beside the table's."""

Table = Mapping[str, Mapping[str, Any]]
"""Agent → `image`, a reference; `bot`, the bot file's path in it; and `placements`, placement → reference,
where a placement has a registry of its own. `image` or `placements` may be missing."""


def content_of(images: Table) -> bytes:
    """Return a table as its file's content."""
    return json.dumps({name: dict(one) for name, one in images.items()}, sort_keys=True).encode()


def mark_of(images: Table) -> str:
    """Return 16 hexadecimal digits that identify this table."""
    return hashlib.sha256(content_of(images)).hexdigest()[:16]
