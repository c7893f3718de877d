"""The installed machine providers: entry points of the group `switchboard.machine_providers`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from dispatcher.machines.settings import PlacementSettings
from dispatcher.plugins import Registry, RegistryError

GROUP = "switchboard.machine_providers"


@functools.cache
def providers() -> Registry[PlacementSettings]:
    """Return the registry, which is read once."""
    return Registry(GROUP, PlacementSettings, "machine provider")


def default_placements() -> dict[str, PlacementSettings]:
    """Return the placements of a dispatcher whose settings name none."""
    found = providers().importable()
    return {name: of(provider=name) for name, of in found.items() if of.is_default}


def _placement(given: Any) -> Any:
    if isinstance(given, PlacementSettings) or not isinstance(given, Mapping):
        return given
    registry = providers()
    name = given.get("provider")
    if name is None:
        raise ValueError(f"provider is missing; allowed: {', '.join(registry.names)}")
    try:
        model = registry.load(str(name))
    except RegistryError as error:
        raise ValueError(str(error)) from error
    return model.model_validate(given)


AnyPlacement = Annotated[SerializeAsAny[PlacementSettings], BeforeValidator(_placement)]
"""A placement of any installed provider."""
