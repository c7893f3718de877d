"""Keys of a stack's config for rooms at Daily."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dispatcher.fields import Allowed, ConfigModel

DOMAIN_WORDS = "the name of a Daily domain: of https://voice.daily.co it is voice"

API_KEY = "the API key of a Daily domain"


class DailyConfig(ConfigModel):
    """Daily's keys that are no secret. The API key comes as `dailyApiKey`, or from the environment."""

    domain: Annotated[str, Allowed(DOMAIN_WORDS)] = Field(
        default="", pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$"
    )
    """Daily domain whose rooms sessions over `daily` meet in."""
    domain_id: Annotated[str, Allowed("the id of that domain, as Daily's API tells it")] = Field(
        default="", pattern=r"^[A-Za-z0-9-]{0,64}$"
    )
    """Id of the domain. With it the dispatcher signs meeting tokens itself; without it each start asks Daily
    for them."""
    api_url: Annotated[str, Allowed("the URL of Daily's REST API, with its version")] = Field(
        default="", pattern=r"^(https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._/-]*)?)?$"
    )
    """Daily's REST API; by default the public one. Tests use another."""
