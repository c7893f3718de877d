"""The resources of a stack as its program registers them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SECRET = "[secret]"  # noqa: S105
"""Stands for a secret value, wherever one is shown. The engine writes the same."""


_REFERENCE = re.compile(r"\{([A-Za-z0-9_-]+)\.(\w+)\}")


def reference(resource: str, output: str) -> str:
    """Return the stand-in for an output that is known only once the resource is made."""
    return f"{{{resource}.{output}}}"


@dataclass(frozen=True)
class Resource:
    """A resource before anything is made."""

    type: str
    """Pulumi's type token, such as `aws:ecs/cluster:Cluster`."""
    name: str
    """Logical name."""
    component: str
    """Logical name of the component that it is in; empty: none."""
    inputs: Mapping[str, Any]
    """Inputs as they go over the wire: a secret is `SECRET`, another resource's output its `reference`."""
    provider: Mapping[str, Any] = field(default_factory=dict)
    """Inputs of the explicit provider that makes it."""
    protected: bool = False
    retained: bool = False
    tagged: bool | None = None
    """True if its tags or labels name project and stack; None if its type has none."""

    @property
    def called(self) -> str:
        """Its name in the cloud where the program gives it one, else its logical name."""
        for key in ("name", "family"):
            given = self.inputs.get(key)
            if isinstance(given, str) and not given.startswith("{"):
                return given
        return self.name

    @property
    def kind(self) -> str:
        """Short name of the type: `aws:ecs/cluster:Cluster` → `Cluster`."""
        return self.type.rpartition(":")[2]


@dataclass(frozen=True)
class Graph:
    """All resources of a stack, in the order in which the program registers them."""

    project: str
    stack: str
    resources: Sequence[Resource]
    components: frozenset[str] = frozenset()
    """Logical names of its components, whose resources are among these."""

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.resources)

    def of(self, *types: str) -> list[Resource]:
        """Return the resources of these types."""
        return [one for one in self.resources if one.type in types]

    def named(self, name: str) -> Resource:
        """Return a resource by its logical name. Raises KeyError."""
        for one in self.resources:
            if one.name == name:
                return one
        raise KeyError(name)

    def referred(self, value: Any) -> Resource | None:
        """Return the resource whose output a value begins with; None if it begins with none."""
        found = _REFERENCE.match(value) if isinstance(value, str) else None
        return next((one for one in self.resources if found and one.name == found[1]), None)

    def needed(self, value: Any) -> Resource:
        """Return the resource whose output a value begins with.

        Raises:
            LookupError: It is no reference to a resource of the stack.
        """
        found = self.referred(value)
        if found is None:
            raise LookupError(f"{value!r} is no reference to a resource of stack {self.stack}")
        return found

    def words(self, text: str) -> str:
        """Return a text with the physical names of resources in the place of references to them."""

        def named(found: re.Match[str]) -> str:
            one = self.referred(found[0])
            return found[0] if one is None else one.called

        return _REFERENCE.sub(named, text)
