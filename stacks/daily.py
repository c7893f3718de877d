"""The key `daily` of a stack's config: the domain whose rooms sessions over Daily meet in."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

FIELDS = {
    "domain": "the name of a Daily domain: of https://voice.daily.co it is voice",
    "domainId": "the id of that domain, as Daily's API tells it",
    "apiUrl": "the URL of Daily's REST API, with its version",
}
"""What each key takes, in the words of a refusal."""


class DailyConfig(BaseModel):
    """What is no secret about Daily. The API key comes as `dailyApiKey`, or from the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    domain: str = Field(default="", pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")
    domain_id: str = Field(default="", pattern=r"^[A-Za-z0-9-]{0,64}$")
    """With it tokens are signed by the dispatcher, and no start waits for Daily to do it."""
    api_url: str = Field(default="", pattern=r"^(https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._/-]*)?)?$")
