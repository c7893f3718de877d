"""Resources that hold data: how a program marks them, and how a run finds them in a stack's state.

Outside of throw-away stacks (`switchboard:throwaway`) each is protected, so that an engine refuses to delete
or replace it, and retained, so that its data stays even where the state loses it. A run that was told by name
to delete it (`CONFIRM=store`) takes both marks off first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

STORE = "store"
"""Logical name of the volume that holds the dispatcher's SQLite and signing key, in every cloud."""

CERTIFICATES = "caddy-data"
"""Logical name of the volume that holds Caddy's certificates and its account with their authority, which
limits how many certificates a name gets a week."""

ROOT = "pulumi:pulumi:Stack"
PROVIDER = "pulumi:providers:"


def marked(throwaway: bool, formerly: str | None = None) -> pulumi.ResourceOptions:
    """Return the options of a resource that holds data.

    Args:
        formerly: The URN that an earlier release gave it.
    """
    return pulumi.ResourceOptions(
        protect=not throwaway,
        retain_on_delete=not throwaway,
        aliases=[formerly] if formerly else None,
    )


def other_cloud(cloud: str) -> str:
    """Return the refusal of a cloud for a stack that is up in another."""
    return (
        f"switchboard:cloud: {cloud!r} is refused, since the stack is up in another cloud, and its store is "
        "there; allowed: the cloud that it is up in (make down ends it there)"
    )


@dataclass(frozen=True)
class Resource:
    """A resource as the state has it."""

    urn: str
    type: str
    name: str
    protected: bool
    needs: frozenset[str]
    """URNs of its parent, its provider and its dependencies."""
    inputs: Mapping[str, Any]
    id: str

    def __str__(self) -> str:
        return self.name


DataTypes = Mapping[str, Callable[[Resource], str]]
"""Types of resources that hold data → words for one of them ("the Docker volume prod-store")."""


@dataclass(frozen=True)
class Store(Resource):
    """A resource that holds data that nothing else has."""

    words: str
    """Words of its cloud for it."""

    def __str__(self) -> str:
        return f"{self.name} ({self.words})"


class State:
    """A stack's exported state.

    Args:
        data_types: Types that hold data, of every cloud that the stack may be in (`clouds.data_types`).
    """

    def __init__(self, deployment: Mapping[str, Any], data_types: DataTypes) -> None:
        self.deployment = deployment
        self.resources = [_resource(one, data_types) for one in deployment.get("resources") or []]

    @property
    def stores(self) -> list[Store]:
        return [one for one in self.resources if isinstance(one, Store)]

    @property
    def marked(self) -> list[Resource]:
        """The stores, and what was protected with them: at Fly, the app that a volume is in."""
        return [one for one in self.resources if isinstance(one, Store) or one.protected]

    @property
    def data(self) -> dict[str, str]:
        """Return URN → words for it, of what is marked."""
        return {one.urn: one.words if isinstance(one, Store) else "it is protected" for one in self.marked}

    @property
    def interrupted(self) -> list[str]:
        """Return the names of resources that a run was changing when it was killed."""
        begun = self.deployment.get("pending_operations") or []
        return sorted({one["resource"]["urn"].rpartition("::")[2] for one in begun})

    def left_without(self, kept: Iterable[Resource]) -> list[Resource]:
        """Return what goes when `kept` stays, with all that it needs."""
        by_urn = {one.urn: one for one in self.resources}
        stays: set[str] = set()
        todo = [one.urn for one in kept]
        while todo:
            urn = todo.pop()
            if urn in by_urn and urn not in stays:
                stays.add(urn)
                todo.extend(by_urn[urn].needs)
        engines_own = (ROOT, PROVIDER)
        return [
            one for one in self.resources if one.urn not in stays and not one.type.startswith(engines_own)
        ]

    def unmarked(self, released: Iterable[Resource]) -> dict[str, Any]:
        """Return the deployment with the marks of `released` taken off."""
        urns, marks = {one.urn for one in released}, ("protect", "retainOnDelete")
        bare = [
            {key: value for key, value in one.items() if one["urn"] not in urns or key not in marks}
            for one in self.deployment.get("resources") or []
        ]
        return {**self.deployment, "resources": bare}

    def without_outputs(self) -> dict[str, Any]:
        """Return the deployment of a stack that tells nothing: what it told is not up."""
        told = [
            {**one, "outputs": {}} if one["type"] == ROOT else one
            for one in self.deployment.get("resources") or []
        ]
        return {**self.deployment, "resources": told}


def _resource(one: Mapping[str, Any], data_types: DataTypes) -> Resource:
    provider = str(one.get("provider") or "").rpartition("::")[0]
    of_properties = [urn for urns in (one.get("propertyDependencies") or {}).values() for urn in urns or ()]
    needs = {provider, one.get("parent") or "", *(one.get("dependencies") or ()), *of_properties} - {""}
    resource = Resource(
        urn=one["urn"],
        type=one["type"],
        name=one["urn"].rpartition("::")[2],
        protected=bool(one.get("protect")),
        needs=frozenset(needs),
        inputs=one.get("inputs") or {},
        id=str(one.get("id") or ""),
    )
    if resource.name in (STORE, CERTIFICATES) and resource.type in data_types:
        return Store(**vars(resource), words=data_types[resource.type](resource))
    return resource
