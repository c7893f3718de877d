"""A container's variables as a resource of the state alone, whose plan shows them one by one.

A container's own are a list, and the engine hides a list as a whole where one element is secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import (
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from stacks.local.host import end_with_engine


class VariablesProvider(ResourceProvider):
    """Keep what a container is told."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("variables", {"values": props["values"]})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=_olds.get("values") != _news.get("values"))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({"values": _news["values"]})


class Variables(Resource, module="switchboard", name="Variables"):
    """The variables of a container; the secret ones are kept encrypted."""

    def __init__(
        self,
        name: str,
        *,
        values: Mapping[str, pulumi.Input[str]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(VariablesProvider(), name, {"values": dict(values)}, opts)
