"""The files of stacks, `stacks/Pulumi.<stack>.yaml`, and of the project, as they are committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stacks import secret_keys
from stacks.errors import ConfigError


def settings(directory: Path, stack: str) -> dict[str, Any]:
    """Return the content of a stack's file.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    file = directory / f"Pulumi.{stack}.yaml"
    if not file.is_file():
        names = sorted(
            path.name.removeprefix("Pulumi.").removesuffix(".yaml")
            for path in directory.glob("Pulumi.*.yaml")
        )
        raise ConfigError(
            f"STACK: {stack!r} has no file {file.relative_to(directory.parent)}; allowed: {', '.join(names)}"
        )
    return load(file)


def load(file: Path) -> dict[str, Any]:
    """Return the mapping that a file holds.

    Raises:
        ConfigError: It holds something else.
    """
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds {type(content).__name__}; allowed: a mapping with the key config")
    return content


def config(settings: Mapping[str, Any], project: str) -> dict[str, Any]:
    """Return the config of a stack's file, with whole keys.

    Raises:
        ConfigError: It is no mapping.
    """
    found = settings.get("config") or {}
    if not isinstance(found, dict):
        raise ConfigError(
            f"config: holds {type(found).__name__} in the stack's file; "
            f"allowed: a mapping of keys, such as {project}:port"
        )
    return {_qualified(str(key), project): value for key, value in found.items()}


def values(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the values that the engine would hand to a program: text, and JSON for what is not a scalar.

    None: a value is encrypted, which only the engine can read.
    """
    found = {}
    for key, value in config.items():
        if secret_keys.encrypted(value):
            return None
        if isinstance(value, bool):
            found[key] = str(value).lower()
        else:
            found[key] = value if isinstance(value, str) else json.dumps(value, default=str)
    return found


def _qualified(key: str, project: str) -> str:
    return key if ":" in key else f"{project}:{key}"
