"""The end of the firewall's rules: the engine's proxy has them made, and this takes them away."""

from __future__ import annotations

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

from stacks.docker import host
from stacks.errors import StackError
from stacks.shared.dynamic import end_with_engine, plain_errors

FIREWALL_SOCKET = "/run/firewall/socket"
"""In a volume of the firewall's and the proxy's."""

PROGRAM = ("/opt/venv/bin/python", "-P", "-m", "dispatcher.firewall")

INPUTS = ("host", "container", "table")


class FirewallRulesProvider(ResourceProvider):
    """Make nothing: the engine's proxy has the rules made. At the end, take them away."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        return CheckResult(news, [])

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["container"], {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=any(_olds.get(key) != _news.get(key) for key in INPUTS))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult({key: _news[key] for key in INPUTS})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        remove(_props["host"], _props["container"], _props["table"])


class FirewallRules(Resource, module="switchboard", name="FirewallRules"):
    """The rules on the engine's host."""

    def __init__(
        self,
        name: str,
        *,
        host: str,
        container: pulumi.Input[str],
        table: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {"host": host, "container": container, "table": table}
        super().__init__(FirewallRulesProvider(), name, properties, opts)


def remove(engine: str, container: str, table: str) -> None:
    """Take the rules away, by the container that may. Raises StackError if they are still there.

    A container that was removed by hand has left its rules, and nothing here removes them.
    """
    if not host.post(engine, f"containers/{container}/start", {}):
        return
    words = [*PROGRAM, "remove", "--table", table, "--socket", FIREWALL_SOCKET]
    status, said = host.execute(engine, container, words)
    if status:
        raise StackError(
            f"the rules of the firewall stay: {said or f'status {status}'}; as root on the engine's host, "
            f"nft delete table inet {table} and nft delete table bridge {table} remove them"
        )
