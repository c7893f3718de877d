"""Fly's API as the dispatcher's client and the stacks' share it: tokens, their header, and throttling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

THROTTLED = ("resource_exhausted: rate limit", "rate limit exceeded")
"""Texts with which Fly at times throttles under another status than 429."""


def throttles(status: int, words: str) -> bool:
    """Return True if Fly asks to call again later."""
    return status == 429 or (status >= 400 and any(sign in words.lower() for sign in THROTTLED))


def fly_authorization(token: str) -> str:
    """Return the header for a token, with or without the `FlyV1 ` that `fly tokens create` prints before it.

    One printed token may be several, separated by commas, of which Fly needs all.
    """
    tokens = [one.strip().removeprefix("FlyV1").strip() for one in token.split(",")]
    # Macaroons have a scheme of their own; what is older, or comes through a proxy, is a plain bearer's.
    scheme = "FlyV1" if all(one.startswith("fm") for one in tokens) else "Bearer"
    return f"{scheme} {','.join(tokens)}"


@dataclass(frozen=True)
class FlyTokens:
    """One token for all apps, or one for each app.

    A token does not show which apps it is valid for, and the tokens of a hundred apps together make too long
    a header.
    """

    for_all: str = field(default="", repr=False)
    by_app: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> FlyTokens:
        """Return the tokens, from one token or a JSON object of app → token.

        Raises:
            ValueError: It is neither. The text does not contain the value.
        """
        if not text.lstrip().startswith("{"):
            return cls(for_all=text)
        try:
            given = json.loads(text)
        except ValueError:
            given = None
        if not isinstance(given, dict) or not all(_sendable(one) for one in given.values()):
            raise ValueError(
                "looks like a JSON object, but is not one of tokens; allowed: a token, or "
                'a JSON object of app → token, such as {"bots-1": "fm2_…"}'
            )
        return cls(by_app=given)

    def of(self, app: str) -> str:
        """Return the token for an app; empty if there is none."""
        return self.by_app.get(app, self.for_all)


def _sendable(token: object) -> bool:
    """Return True if it can be sent in a header."""
    return isinstance(token, str) and bool(token.strip()) and token.isascii() and token.isprintable()
