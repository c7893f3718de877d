"""A stack's environment from its committed files alone: encrypted values are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stacks.config import parse
from stacks.deployment import Environment
from stacks.errors import ConfigError
from stacks.secret_keys import encrypted

STAND_IN = "bm90LXNldC1oZXJlLWJ1dC1uZWVkZWQ="
"""Value of a secret that is not known here: base64, which Daily's webhooks want."""


def environment(checkout: Path, stack: str) -> Environment:
    """Read a stack's config.

    Raises:
        ConfigError: There is no such stack, or its config is refused.
    """
    project = yaml.safe_load((checkout / "Pulumi.yaml").read_text())["name"]
    file = checkout / "stacks" / f"Pulumi.{stack}.yaml"
    if not file.is_file():
        there = sorted(one.name.split(".")[1] for one in (checkout / "stacks").glob("Pulumi.*.yaml"))
        raise ConfigError(f"STACK: {stack!r} has no file {file.name} in stacks/; allowed: {', '.join(there)}")
    try:
        found = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"stacks/{file.name}: it is not YAML: {error}") from None
    values = {key: _text(value) for key, value in (found.get("config") or {}).items()}
    return Environment(
        project, stack, checkout, parse(values, project=project, checkout=checkout, stack=stack)
    )


def _text(value: Any) -> str:
    """Return a value as an engine hands it over."""
    if encrypted(value):
        return STAND_IN
    return value if isinstance(value, str) else json.dumps(_decrypted(value))


def _decrypted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return STAND_IN if encrypted(value) else {key: _decrypted(one) for key, one in value.items()}
    return [_decrypted(one) for one in value] if isinstance(value, list) else value
