"""Checks of the config against what Fly offers: its regions, asked before anything is made.

Sizes of machines need no question: `dispatcher.machines.fly.sizes` has Fly's list.
"""

from __future__ import annotations

from collections.abc import Iterable

import pulumi

from stacks.core_config import CoreConfig
from stacks.errors import ConfigError
from stacks.fly.api import FlyError, FlyMisread, FlyUnanswered, NoToken, mapping, rows
from stacks.fly.config import FlyKeys
from stacks.fly.resource import client

REGIONS_PATH = "platform/regions"


def check(config: CoreConfig, wanted: Iterable[str], path: str) -> None:
    """Refuse regions that Fly does not have.

    Args:
        path: The key that has the regions, without its last part.

    Without a token nothing is asked: the first resource says that it is missing. Where Fly does not answer,
    a warning says that the regions were not checked.

    Raises:
        ConfigError: a region does not exist, or Fly refuses the token.
    """
    try:
        keys = FlyKeys.of(config)
        offered = regions(keys.fly_api_token.get_secret_value(), keys.fly.api_url)
    except NoToken:
        return
    except (FlyUnanswered, FlyMisread) as error:
        pulumi.warn(f"{path}.regions: not checked against Fly's list: {error}")
        return
    except FlyError as error:
        raise ConfigError(str(error)) from None
    for region in wanted:
        if region not in offered:
            raise ConfigError(
                f"{path}.regions: {region!r} is not a region of Fly; allowed: {', '.join(sorted(offered))}"
            )


def regions(token: str | None, url: str) -> set[str]:
    """Return the codes of the regions that machines can be made in. Raises FlyError."""
    # Once: a run must not wait long for a check.
    fly = client(token, url, tries=1)
    try:
        call = f"GET {REGIONS_PATH}"
        answer = mapping(fly.get(REGIONS_PATH), call, "regions") or {}
        found = rows(answer.get("regions"), call, "code")
    finally:
        fly.close()
    return {row["code"] for row in found if not row.get("deprecated")}
