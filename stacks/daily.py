"""Rooms at Daily, for every cloud: what a stack's config says of them, and what the dispatcher is told."""

from __future__ import annotations

import os
from typing import Any

from pydantic import SecretStr
from pydantic.alias_generators import to_camel

from dispatcher.settings import ENVIRONMENT_PREFIX
from stacks.core_config import CoreConfig
from stacks.daily_config import API_KEY, DOMAIN_WORDS, DailyConfig
from stacks.errors import ConfigError

FROM_ENVIRONMENT = {"daily_api_key": "DAILY_API_KEY", "daily_webhook_secret": "DAILY_WEBHOOK_SECRET"}
"""Secrets that the config may leave to the environment of whoever runs the engine."""

PLAIN = {f"daily_{name}": name for name in DailyConfig.model_fields}
"""The dispatcher's settings that are no secret → the fields here."""

KEY_OF_SETTING = {
    **{setting: f"daily.{to_camel(name)}" for setting, name in PLAIN.items()},
    **{setting: to_camel(setting) for setting in FROM_ENVIRONMENT},
}
"""The dispatcher's settings that come from here, and where the config has them."""


def settings_of(config: CoreConfig) -> dict[str, Any]:
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


def keys_of(config: CoreConfig) -> dict[str, str]:
    """Setting → the key of the config that it comes from, or the variable, if that has it instead."""
    return {
        setting: f"{key} ({FROM_ENVIRONMENT[setting]} of the environment)"
        if setting in FROM_ENVIRONMENT and not getattr(config, setting).get_secret_value()
        else key
        for setting, key in KEY_OF_SETTING.items()
    }


def secret_variables(config: CoreConfig) -> dict[str, str]:
    """The secret ones of `settings_of` as the dispatcher's variables: `to_environment` leaves them out."""
    return {_variable(setting): value for setting, value in _secrets(config).items()}


def not_set_here(config: CoreConfig) -> dict[str, str]:
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


def _wanted_by(config: CoreConfig) -> str:
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


def _secrets(config: CoreConfig) -> dict[str, str]:
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
