"""Rooms at Daily, for every cloud: what a stack's config says of them, and what the dispatcher is told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from dispatcher.fields import Allowed
from dispatcher.settings import ENVIRONMENT_PREFIX
from stacks.errors import ConfigError

if TYPE_CHECKING:
    from stacks.config import StackConfig

DOMAIN_WORDS = "the name of a Daily domain: of https://voice.daily.co it is voice"

API_KEY = "the API key of a Daily domain"

FROM_ENVIRONMENT = {"daily_api_key": "DAILY_API_KEY", "daily_webhook_secret": "DAILY_WEBHOOK_SECRET"}
"""Secrets that the config may leave to the environment of whoever runs the engine."""


class DailyConfig(BaseModel):
    """Daily's keys that are no secret. The API key comes as `dailyApiKey`, or from the environment."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

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


PLAIN = {f"daily_{name}": name for name in DailyConfig.model_fields}
"""The dispatcher's settings that are no secret → the fields here."""

KEY_OF_SETTING = {
    **{setting: f"daily.{to_camel(name)}" for setting, name in PLAIN.items()},
    **{setting: to_camel(setting) for setting in FROM_ENVIRONMENT},
}
"""The dispatcher's settings that come from here, and where the config has them."""


def settings_of(config: StackConfig) -> dict[str, Any]:
    """The dispatcher's settings for rooms at Daily; none where the config wants none.

    Raises:
        ConfigError: there is no key or no domain.
    """
    wanted = _wanted_by(config)
    if not wanted:
        return {}
    secrets = _secrets(config)
    missing = {}
    if "daily_api_key" not in secrets:
        missing["dailyApiKey"] = (
            f"{API_KEY}, in the config (`pulumi config set --secret switchboard:dailyApiKey`) or as "
            f"{FROM_ENVIRONMENT['daily_api_key']} of the environment"
        )
    if not config.daily.domain:
        missing["daily.domain"] = (
            f"{DOMAIN_WORDS} (`pulumi config set --path switchboard:daily.domain voice`)"
        )
    if missing:
        raise ConfigError(
            "\n".join(
                f"switchboard:{key}: is missing, and {wanted}; allowed: {allowed}"
                for key, allowed in missing.items()
            )
        )
    plain = {setting: getattr(config.daily, name) for setting, name in PLAIN.items()}
    return {
        **{setting: value for setting, value in plain.items() if value},
        **{setting: SecretStr(value) for setting, value in secrets.items()},
    }


def keys_of(config: StackConfig) -> dict[str, str]:
    """Setting → the key of the config that it comes from, or the variable, if that has it instead."""
    return {
        setting: f"{key} ({FROM_ENVIRONMENT[setting]} of the environment)"
        if setting in FROM_ENVIRONMENT and not getattr(config, setting).get_secret_value()
        else key
        for setting, key in KEY_OF_SETTING.items()
    }


def secret_variables(config: StackConfig) -> dict[str, str]:
    """The secret ones of `settings_of` as the dispatcher's variables: `to_environment` leaves them out."""
    return {_variable(setting): value for setting, value in _secrets(config).items()}


def not_set_here(config: StackConfig) -> dict[str, str]:
    """The dispatcher's variables that the config leaves to the environment, and that are not in there.

    With their names in there. One that is set there, but empty, is not wanted.
    """
    if not _wanted_by(config):
        return {}
    given = _secrets(config)
    return {
        _variable(setting): variable
        for setting, variable in FROM_ENVIRONMENT.items()
        if setting not in given and variable not in os.environ
    }


def _wanted_by(config: StackConfig) -> str:
    """Return what of the config asks for rooms at Daily, in words; empty if nothing does.

    Then nothing is taken from the environment either: many who try Pipecat have a DAILY_API_KEY there.
    """
    for name, agent in config.agents.items():
        if "daily" in agent.transports:
            return f"agent '{name}' offers the transport 'daily'"
    if config.daily != DailyConfig():
        return "switchboard:daily is there"
    for setting in FROM_ENVIRONMENT:
        if getattr(config, setting).get_secret_value():
            return f"switchboard:{KEY_OF_SETTING[setting]} is there"
    return ""


def _secrets(config: StackConfig) -> dict[str, str]:
    """Setting → value: the config's, else the environment's."""
    if not _wanted_by(config):
        return {}
    found = {
        setting: getattr(config, setting).get_secret_value() or os.environ.get(variable, "")
        for setting, variable in FROM_ENVIRONMENT.items()
    }
    return {setting: value for setting, value in found.items() if value}


def _variable(setting: str) -> str:
    return ENVIRONMENT_PREFIX + setting.upper()
