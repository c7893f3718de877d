"""Fly's tokens: how they are given, and how they are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


def fly_authorization(token: str) -> str:
    """The header for a token, with or without the `FlyV1 ` that `fly tokens create` prints before it.

    One that Fly prints may be several with commas between them, of which it needs all.
    """
    tokens = [one.strip().removeprefix("FlyV1").strip() for one in token.split(",")]
    # Macaroons have a scheme of their own; what is older, or comes through a proxy, is a plain bearer's.
    scheme = "FlyV1" if all(one.startswith("fm") for one in tokens) else "Bearer"
    return f"{scheme} {','.join(tokens)}"


@dataclass(frozen=True)
class FlyTokens:
    """One token for every app, or one for each: nobody can tell from a token which app it is good for, and
    those of a hundred apps together are no header that a server takes."""

    for_all: str = field(default="", repr=False)
    by_app: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> FlyTokens:
        """A token, or a JSON object of app → token.

        Raises:
            ValueError: It is neither. The error says nothing of what was given.
        """
        if not text.lstrip().startswith("{"):
            return cls(for_all=text)
        try:
            given = json.loads(text)
        except ValueError:
            given = None
        if not isinstance(given, dict) or not all(_sendable(one) for one in given.values()):
            raise ValueError(
                "begins as a JSON object and is none of tokens; allowed: a token, or "
                'a JSON object of app → token, such as {"bots-1": "fm2_…"}'
            )
        return cls(by_app=given)

    def of(self, app: str) -> str:
        """The token for what concerns an app; empty: there is none."""
        return self.by_app.get(app, self.for_all)


def _sendable(token: object) -> bool:
    """Whether it can be sent in a header."""
    return isinstance(token, str) and bool(token.strip()) and token.isascii() and token.isprintable()
