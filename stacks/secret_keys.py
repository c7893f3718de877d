"""Keys of the config that are secret, and the refusal of one whose value is there in clear.

The engine encrypts what `pulumi config set --secret` wrote. A plain value is in the stack's file, in the
provider's inputs and in the state for everybody who reads them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from stacks.config import CLOUDS, StackConfig
from stacks.daily import FROM_ENVIRONMENT
from stacks.errors import ConfigError

SECRET_KEYS = tuple(
    field.alias or name for name, field in StackConfig.model_fields.items() if field.annotation is SecretStr
)
"""Keys whose whole value is secret."""

VARIABLES = {
    **{key: variable for cloud in CLOUDS.values() for key, variable in cloud.variables.items()},
    **{StackConfig.model_fields[setting].alias: variable for setting, variable in FROM_ENVIRONMENT.items()},
}
"""Keys → the environment variables that are taken where the config has none."""


def encrypted(value: Any) -> bool:
    """Return True if a value of a stack's file is encrypted, or something in it."""
    if isinstance(value, Mapping):
        return set(value) == {"secure"} or any(encrypted(inner) for inner in value.values())
    return isinstance(value, list) and any(encrypted(inner) for inner in value)


def refuse_in_clear(
    values: Mapping[str, Any], *, project: str, stack: str, place: str, secret: Collection[str] = ()
) -> None:
    """Refuse secrets that are not encrypted.

    Args:
        values: Of a stack's file, or of the engine, where objects are JSON.
        place: What holds them, for the refusal.
        secret: Keys of which the engine says that they are, or hold, an encrypted value.

    Raises:
        ConfigError: Names each, without its value.
    """
    lines = []
    for key, value in values.items():
        if key in secret or not key.startswith(f"{project}:"):
            continue
        for path in _in_clear(key.removeprefix(f"{project}:"), value):
            flag = "--secret" if path in SECRET_KEYS else "--path --secret"
            instead = f", or {VARIABLES[path]} of the environment" if path in VARIABLES else ""
            lines.append(
                f"{project}:{path}: is in clear in {place}, and would be in the state; allowed: "
                f"encrypted, by `pulumi config set {flag} '{project}:{path}' --stack {stack}`, which asks "
                f"for it{instead}. "
                "One that was committed is known: make a new one"
            )
    if lines:
        raise ConfigError("\n".join(lines))


def _in_clear(key: str, value: Any) -> Iterator[str]:
    """The paths of plain values among a key's."""
    if key in SECRET_KEYS:
        if value not in ("", None) and not encrypted(value):
            yield key
    elif key == "iceServers":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return  # its type is refused
        for index, server in enumerate(value if isinstance(value, list) else ()):
            credential = server.get("credential") if isinstance(server, Mapping) else None
            if credential not in ("", None) and not encrypted(credential):
                yield f"{key}[{index}].credential"
