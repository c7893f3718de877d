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

INPUTS = ("host", "container", "table", "image")


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
        # A state of before has no image.
        remove(_props["host"], _props["container"], _props["table"], _props.get("image"))


class FirewallRules(Resource, module="switchboard", name="FirewallRules"):
    """The rules on the engine's host."""

    def __init__(
        self,
        name: str,
        *,
        host: str,
        container: pulumi.Input[str],
        table: str,
        image: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {"host": host, "container": container, "table": table, "image": image}
        super().__init__(FirewallRulesProvider(), name, properties, opts)


def remove(engine: str, container: str, table: str, image: str | None) -> None:
    """Take the rules away, by the container that may; by one of its image if that was removed by hand.

    Raises:
        StackError: they are still there.
    """
    words = [*PROGRAM, "remove", "--table", table, "--socket", FIREWALL_SOCKET]
    if host.post(engine, f"containers/{container}/start", {}):
        status, said = host.execute(engine, container, words)
    elif image:
        try:
            status, said = host.run_once(engine, f"{container}-end", _wanted(image, words))
        except host.EngineFailed as error:
            status, said = 1, str(error)
    else:
        status, said = 1, f"container {container} is not there any more"
    if status:
        raise StackError(
            f"the rules of the firewall stay: {said or f'status {status}'}; make refresh, and then make up, "
            f"makes {container} anew, which can remove them; or as root on the engine's host: "
            f"nft delete table inet {table}; nft delete table bridge {table}"
        )


def _wanted(image: str, words: list[str]) -> dict[str, Any]:
    """Return the engine's request for a container that may change the host's tables, and no more."""
    return {
        "Image": image,
        "Entrypoint": words,
        "Cmd": [],
        "User": "0:0",
        "HostConfig": {
            "NetworkMode": "host",
            "CapDrop": ["ALL"],
            "CapAdd": ["NET_ADMIN"],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": True,
            "LogConfig": {"Type": "json-file", "Config": {}},
        },
    }
