"""Plugins, found by entry points: any installed package may register some in its `pyproject.toml`.

Switchboard's own are registered the same way: `switchboard.dist-info` lies beside this package, where
`importlib.metadata` finds it on every path that has the code. A plugin is a class, imported on first use.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class RegistryError(Exception):
    """The entry points cannot be used. The text names the entry point and the fix."""


class UnknownPlugin(ValueError):
    """No plugin of this name is installed. The text lists those that are."""


class SharedSettings(BaseModel):
    """Deployment-wide settings of one plugin, its credentials as `SecretStr`.

    Each field is a setting of the dispatcher: `api_token` of the plugin `fly` is `fly_api_token`, which the
    variable `SWITCHBOARD_FLY_API_TOKEN` sets. Every field has a default, and its checks are in its
    annotation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def of(cls, shared: SharedSettings) -> Self:
        """Return the settings as this class.

        Raises:
            TypeError: They belong to another plugin.
        """
        if not isinstance(shared, cls):
            raise TypeError(f"these are {type(shared).__name__}, not {cls.__name__}")
        return shared


class Plugin:
    """Base of the classes that entry points name; a class may be asked without ever being instantiated."""

    shared: ClassVar[type[SharedSettings]] = SharedSettings


T = TypeVar("T", bound=Plugin)


class Registry(Generic[T]):
    """The plugins of one group.

    Args:
        base: The class that a plugin derives from.
        kind: The word for such a plugin, in a refusal.
    """

    def __init__(self, group: str, base: type[T], kind: str) -> None:
        self._base = base
        self._kind = kind
        self._entries = _entries(group)
        if not self._entries:
            raise RegistryError(
                f"no {kind} is registered: the metadata of switchboard is not beside dispatcher/; "
                "run: python3 -m stacks.metadata"
            )

    @property
    def names(self) -> list[str]:
        """Names of the plugins, in the order in which they are registered."""
        return list(self._entries)

    def load(self, name: str) -> type[T]:
        """Import a plugin.

        Raises:
            UnknownPlugin: None has this name.
            RegistryError: It cannot be imported, or is not a class of the right kind.
        """
        if (entry := self._entries.get(name)) is None:
            raise UnknownPlugin(
                f"'{name}' is not the name of a {self._kind}; allowed: {', '.join(self.names)}"
            )
        try:
            found: Any = entry.load()
        except (ImportError, AttributeError) as error:
            raise RegistryError(
                f"{self._kind} '{name}' ({entry.value}) cannot be imported: {error}"
            ) from error
        if not (isinstance(found, type) and issubclass(found, self._base)):
            raise RegistryError(f"{self._kind} '{name}': {entry.value} is not a {self._base.__name__}")
        return found

    def shared_fields(self) -> dict[str, tuple[Any, FieldInfo]]:
        """Return name → annotation and field of the settings that the plugins add to the dispatcher's."""
        return {
            setting(name, field): (info.annotation, info)
            for name, plugin in self.importable().items()
            for field, info in plugin.shared.model_fields.items()
        }

    def importable(self) -> dict[str, type[T]]:
        """Return name → plugin of all that can be imported: a broken plugin harms only its users."""
        found: dict[str, type[T]] = {}
        for name in self.names:
            with contextlib.suppress(RegistryError):
                found[name] = self.load(name)
        return found


def setting(plugin: str, field: str) -> str:
    """Return the name of the dispatcher's setting for a plugin's field."""
    return f"{plugin.replace('-', '_')}_{field}"


def _entries(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for distribution in distributions(tuple(sys.path)):
        for entry in distribution.entry_points.select(group=group):
            first = found.setdefault(entry.name, entry)
            if first.value != entry.value:
                raise RegistryError(
                    f"{group}: '{entry.name}' is registered twice, as {first.value} and {entry.value}; "
                    "uninstall one of the packages"
                )
    return found


@functools.cache
def distributions(path: tuple[str, ...]) -> Sequence[importlib.metadata.Distribution]:
    """Return the distributions on a path that have entry points of these groups.

    `importlib.metadata.entry_points` parses those of all distributions for each group, which takes five times
    as long.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=list(path)):
        if "[switchboard." in (distribution.read_text("entry_points.txt") or ""):
            # The first on the path: its code is the one that is imported.
            found.setdefault(distribution.metadata["Name"], distribution)
    return list(found.values())
