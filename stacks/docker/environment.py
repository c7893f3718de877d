"""A container's variables as a resource of the state alone, whose plan shows them one by one.

A container's own are a list, and the engine hides a list as a whole where one element is secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import (
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from stacks.shared.dynamic import end_with_engine
from stacks.shared.outside import refusals_of_removal


class VariablesProvider(ResourceProvider):
    """Keep what a container is told."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse a run without a variable that the container has."""
        failures = refusals_of_removal(
            _olds.get("values"), news.get("values"), news.get("outside") or {}, "the stack"
        )
        return CheckResult(news, failures)

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
        outside: Mapping[str, str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Keep `values`.

        Args:
            outside: Those that come from the environment of the run: `refusals_of_removal` has its form.
        """
        properties = {"values": dict(values), "outside": dict(outside or {})}
        super().__init__(VariablesProvider(), name, properties, opts)
