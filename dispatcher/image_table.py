"""A table of agents' images, as a stack writes it and a dispatcher reads it. Only the standard library is
imported here: a stack's program reads it at each run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def content_of(images: Mapping[str, str]) -> bytes:
    """Return a table (agent → image) as its file has it."""
    return json.dumps(dict(images), sort_keys=True).encode()


def mark_of(images: Mapping[str, str]) -> str:
    """Return what tells this table from others: 16 hexadecimal digits."""
    return hashlib.sha256(content_of(images)).hexdigest()[:16]
