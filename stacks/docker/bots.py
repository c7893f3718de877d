"""The bots' containers: the dispatcher makes and ends them, no state knows them; the stack's end is theirs.

The resource is made before the dispatcher and deleted after it, when nobody starts bots any more.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from stacks.docker.host import EngineFailed, call
from stacks.shared.dynamic import end_with_engine, plain_errors
from stacks.stateful import other_cloud

# The dispatcher's word, `dispatcher.machines.container.request.DEPLOYMENT_LABEL`; a test compares them.
DEPLOYMENT_LABEL = "switchboard.deployment"

GRACE_SECONDS = 10
"""Between a bot's SIGTERM and its end: it says its last word, and leaves its room."""

END_SECONDS = GRACE_SECONDS + 60
"""For an engine to end a container, or to remove one."""

AT_ONCE = 16

INPUTS = ("host", "deployment")


class MachinesProvider(ResourceProvider):
    """Nothing is made; at the end, what the dispatcher made is ended."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse another cloud or engine: what is on the old one would not be found from the new one."""
        if not _olds:
            return CheckResult(news, [])
        if "deployment" not in _olds:
            return CheckResult(news, [CheckFailure("", other_cloud("docker"))])
        if _olds["host"] == news["host"]:
            return CheckResult(news, [])
        moved = (
            f"switchboard:docker.host: {news['host']!r} is refused; allowed: {_olds['host']!r}, where the "
            "stack is up, with its store (make down CONFIRM=store deletes both there)"
        )
        return CheckResult(news, [CheckFailure("", moved)])

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["deployment"], {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # Another name: what runs under the old one ends.
        changed = [key for key in INPUTS if _olds.get(key) != _news.get(key)]
        return DiffResult(changes=bool(changed), replaces=changed)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({key: _news[key] for key in INPUTS})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        end_all(_props["host"], _props["deployment"])


class Machines(Resource, module="switchboard", name="Machines"):
    """The bots' containers of a deployment."""

    def __init__(
        self, name: str, *, host: str, deployment: str, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__(MachinesProvider(), name, {"host": host, "deployment": deployment}, opts)


def end_all(host: str, deployment: str) -> None:
    """End and remove every bot's container. Raises StackError if one could not be ended."""
    filters = json.dumps({"label": [f"{DEPLOYMENT_LABEL}={deployment}"]})
    found = call(host, "GET", "containers/json", all="true", filters=filters)

    def end(container: dict[str, Any]) -> None:
        path = f"containers/{container['Id']}"
        if container["State"] == "running":
            call(host, "POST", f"{path}/stop", timeout=END_SECONDS, t=str(GRACE_SECONDS))
        try:
            call(host, "DELETE", path, force="true", v="true")
        except EngineFailed as error:
            if error.status != 409:
                raise
            # The dispatcher was removing it. Its network is deleted next, and must be empty by then.
            call(host, "POST", f"{path}/wait", timeout=END_SECONDS, condition="removed")

    # Compared, whatever the engine filtered: each of these is deleted.
    ours = [one for one in found if (one["Labels"] or {}).get(DEPLOYMENT_LABEL) == deployment]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(end, ours))
