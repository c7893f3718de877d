"""Machines of an app that no state knows, at the end of the stack: bots' machines, and a failed run's.

The resource is made before the dispatcher and deleted after it, when nobody starts bots any more.
"""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult

from stacks.fly.api import part
from stacks.fly.ending import GRACE_SECONDS, sweep
from stacks.fly.resource import FlyResource, Kind
from stacks.shared.dynamic import plain_errors


class MachinesProvider(Kind):
    inputs = ("app",)
    replaced = inputs

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(f"{props['app']}/machines", self.kept(props))

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        app = self.fly.get(f"apps/{part(props['app'])}")
        return ReadResult("", {}) if app is None else ReadResult(id_, props)

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        sweep(self.fly, _props["app"], GRACE_SECONDS)


class Machines(FlyResource, module="switchboard", name="FlyMachines"):
    """The machines of an app that the dispatcher makes."""

    def __init__(
        self, logical_name: str, *, app: pulumi.Input[str], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__(MachinesProvider(), logical_name, {"app": app}, opts=opts)
