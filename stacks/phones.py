"""Phone carriers, for every cloud: the dispatcher's settings from a stack's config."""

from __future__ import annotations

from typing import Any

from dispatcher.settings import ENVIRONMENT_PREFIX, PHONE_SECRETS, PhoneAccounts
from stacks.core_config import CoreConfig


def settings_of(config: CoreConfig) -> dict[str, Any]:
    """Return the dispatcher's settings for phone carriers; none where the config has none."""
    found: dict[str, Any] = {name: getattr(config, name) for name in _secrets(config)}
    return found | ({"phone": config.phone} if config.phone != PhoneAccounts() else {})


def secret_variables(config: CoreConfig) -> dict[str, str]:
    """Return the secret ones of `settings_of` as variables: `to_environment` leaves them out."""
    return {ENVIRONMENT_PREFIX + name.upper(): value for name, value in _secrets(config).items()}


def _secrets(config: CoreConfig) -> dict[str, str]:
    values = {name: getattr(config, name).get_secret_value() for name in PHONE_SECRETS}
    return {name: value for name, value in values.items() if value}
