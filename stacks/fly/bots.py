"""What an app has at the end of the stack that no state knows: bots' machines, and what a failed run left.

The resource is made before the dispatcher and deleted after it, when nobody starts bots any more.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult

from stacks.fly.api import part
from stacks.fly.machines import end, living
from stacks.fly.resource import FlyResource, Kind
from stacks.local.host import plain_errors

GRACE_SECONDS = 10
"""Between a bot's SIGTERM and its end: it says its last word, and leaves its room."""

AT_ONCE = 16
"""Machines that are being ended. Fly limits the calls for each machine, not for all."""


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
        app = _props["app"]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda machine: end(self.fly, app, machine, GRACE_SECONDS), living(self.fly, app)))


class Machines(FlyResource, module="switchboard", name="FlyMachines"):
    """The machines of an app that the dispatcher makes."""

    def __init__(
        self, logical_name: str, *, app: pulumi.Input[str], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__(MachinesProvider(), logical_name, {"app": app}, opts=opts)
