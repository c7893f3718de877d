"""A stack's environment from its committed files alone: encrypted values are stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stacks import secret_keys, stack_file
from stacks.config import parse
from stacks.deployment import Environment

STAND_IN = "bm90LXNldC1oZXJlLWJ1dC1uZWVkZWQ="
"""Value of a secret, or of a variable, that is not known here: base64, which Daily's webhooks want."""

STAND_INS = {"databaseUrl": "postgresql://user:password@database.invalid/switchboard"}
"""Secret keys whose form is checked."""


def environment(checkout: Path, stack: str, overrides: Mapping[str, Any] | None = None) -> Environment:
    """Read a stack's config.

    Args:
        overrides: Keys that one run is given, over those of the file.

    Raises:
        ConfigError: There is no such stack, or its config is refused.
    """
    project = stack_file.load(checkout / "Pulumi.yaml")["name"]
    given = stack_file.config(stack_file.settings(checkout / "stacks", stack), project)
    place = f"stacks/Pulumi.{stack}.yaml"
    secret_keys.refuse_in_clear(given, project=project, stack=stack, place=place)
    for key, value in (overrides or {}).items():
        full = f"{project}:{key}"
        given[full] = {**(given.get(full) or {}), **value} if isinstance(value, dict) else value
    decrypted = {key: _decrypted(key.removeprefix(f"{project}:"), value) for key, value in given.items()}
    values = stack_file.values(decrypted) or {}
    return Environment(
        project, stack, checkout, parse(values, project=project, checkout=checkout, stack=stack)
    )


def _decrypted(key: str, value: Any) -> Any:
    """Return a value with stand-ins in the place of what is encrypted in it."""
    if isinstance(value, Mapping):
        if set(value) == {"secure"}:
            return STAND_INS.get(key, STAND_IN)
        return {name: _decrypted(str(name), one) for name, one in value.items()}
    return [_decrypted(key, one) for one in value] if isinstance(value, list) else value
