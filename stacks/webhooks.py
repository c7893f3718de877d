"""Webhooks to the deployment's own back end, for every cloud: from a stack's config."""

from __future__ import annotations

import json
from typing import Any

from pydantic import SecretStr

from dispatcher.settings import ENVIRONMENT_PREFIX
from stacks.core_config import CoreConfig


def settings_of(config: CoreConfig) -> dict[str, Any]:
    """Return the dispatcher's settings for webhooks; none where the config names no back end."""
    if not config.webhook_url:
        return {}
    networks = {"webhook_networks": config.webhook_networks} if config.webhook_networks else {}
    secrets = [SecretStr(secret) for secret in _secrets(config)]
    return {"webhook_url": config.webhook_url, "webhook_secrets": secrets, **networks}


def secret_variables(config: CoreConfig) -> dict[str, str]:
    """Return the secret ones of `settings_of` as the dispatcher's variables."""
    if not config.webhook_url:
        return {}
    return {f"{ENVIRONMENT_PREFIX}WEBHOOK_SECRETS": json.dumps(_secrets(config))}


def _secrets(config: CoreConfig) -> list[str]:
    """Return the current secret, and the one before, if there is one."""
    both = (config.webhook_secret, config.webhook_previous_secret)
    return [value for secret in both if (value := secret.get_secret_value())]
