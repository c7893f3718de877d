"""The cloud `docker` for a reviewer: what its containers may do, open and keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stacks.deployment import Environment
from stacks.plan.graph import Graph, Resource
from stacks.plan.review import (
    INTERNET,
    MEASURED,
    Cost,
    Grant,
    Kept,
    Opening,
    Review,
    Runs,
    SecretUse,
    Wait,
    keys_of_agents,
    ranges,
)
from stacks.stateful import CERTIFICATES, STORE

CONTAINER, NETWORK = "docker:index/container:Container", "docker:index/network:Network"
VOLUME = "docker:index/volume:Volume"
PROXY_PREFIX = "SWITCHBOARD_PROXY_"

STORES = (STORE, CERTIFICATES)

LOOPBACK = ("127.0.0.1", "::1")

REASONS = {
    "dispatcher": "The voice page and the API",
    "caddy": "Callers' HTTPS; port 80 gets the certificate and redirects",
    "turn": "Media of callers whose network lets no direct path through",
}
"""Logical name of a container → why its ports are open."""

ENCRYPTED = {"turn": "DTLS-SRTP between browser and bot"}
"""Logical name of a container → what encrypts what passes, where TLS does not."""

NEEDS = {
    "firewall": "It writes the host's packet filter for the bots' networks.",
    "caddy": "It listens at ports below 1024.",
    "turn": "It listens at ports below 1024.",
    "dispatcher": "It reaches the engine through the engine proxy alone.",
}
"""Logical name of a container → why it has what it has."""


class DockerReview(Review):
    """The graph of a `docker` stack."""

    def stand_ins(self, type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if type_ == NETWORK:
            return {"ipamConfigs": [{"subnet": "172.20.0.0/16", "gateway": "172.20.0.1"}]}
        return inputs["wanted"] if type_.endswith(":AllowedImages") else {}

    def facts(self, resource: Resource) -> str | None:
        inputs = resource.inputs
        if resource.type == CONTAINER:
            return ", ".join(_container(inputs))
        if resource.type == NETWORK:
            return "reaches nothing outside" if inputs.get("internal") else "reaches the outside"
        return str(inputs["name"]) if resource.type == VOLUME else None

    def grants(self, graph: Graph) -> Sequence[Grant]:
        found = []
        for one in graph.of(CONTAINER):
            variables = _variables(one)
            binds = [of["source"] for of in one.inputs.get("mounts", ()) if of["type"] == "bind"]
            added = one.inputs.get("capabilities", {}).get("adds", ())
            if f"{PROXY_PREFIX}SOCKET" in variables:
                found.append(_of_proxy(one, binds, variables))
            elif binds or added or one.inputs.get("networkMode") == "host":
                does = [f"capability {name}" for name in added]
                if one.inputs.get("networkMode") == "host":
                    does.append("the host's network")
                does += [f"read {path}" for path in binds]
                found.append(Grant(one.called, "Docker", does, ["this host"], reason=NEEDS.get(one.name, "")))
            else:
                found.append(
                    Grant(
                        one.called,
                        "Docker",
                        ("no capability, no privilege of the host",),
                        ("its own files, and its networks",),
                        reason=NEEDS.get(one.name, ""),
                    )
                )
        return found

    def openings(self, graph: Graph) -> Sequence[Opening]:
        found = []
        for one in graph.of(CONTAINER):
            ports: dict[tuple[str, str, str], list[int]] = {}
            for port in one.inputs.get("ports", ()):
                address = port.get("ip") or "0.0.0.0"  # noqa: S104 - shown, and bound to by nobody here
                number = int(port["external"])
                encrypted = "TLS by Caddy" if number == 443 else ENCRYPTED.get(one.name, "not encrypted")
                ports.setdefault((address, port.get("protocol") or "tcp", encrypted), []).append(number)
            for (address, protocol, encrypted), numbers in ports.items():
                found.append(
                    Opening(
                        "this host" if address in LOOPBACK else INTERNET,
                        f"{one.called} at {address}",
                        protocol,
                        ranges(numbers),
                        REASONS.get(one.name, ""),
                        encrypted,
                    )
                )
        return found

    def egress(self, graph: Graph) -> Sequence[str]:
        firewall = any(one.name == "firewall" for one in graph.of(CONTAINER))
        bots = "bots: to the internet and the dispatcher's machine routes; "
        bots += (
            "not to metadata addresses, this host, other ports of the stack, or other bots (its firewall)"
            if firewall
            else "also to metadata addresses and this host, since the firewall is off"
        )
        return [
            bots,
            "the dispatcher: anywhere",
            *(f"{one.called}: nowhere outside" for one in graph.of(NETWORK) if one.inputs.get("internal")),
        ]

    def secrets(self, environment: Environment, graph: Graph) -> Sequence[SecretUse]:
        return [
            SecretUse(
                "signing key of machines' tokens",
                "the dispatcher's volume",
                "the dispatcher",
                "the dispatcher makes it at its first start; deleting the file makes another",
            ),
            *keys_of_agents(environment, "the stack's state, encrypted, and the dispatcher's environment"),
        ]

    def kept(self, graph: Graph) -> Sequence[Kept]:
        # Whether the host's disk is encrypted, no graph tells; the README of the host does.
        return [
            Kept(one.name, "the store", None, store=True) for one in graph.of(VOLUME) if one.name in STORES
        ]

    def runs(self, graph: Graph) -> Sequence[Runs]:
        return [Runs(one.name, str(one.inputs["image"]), _variables(one)) for one in graph.of(CONTAINER)]

    def idle(self, graph: Graph) -> Sequence[Cost]:
        if not graph.of(CONTAINER):
            return ()
        return [Cost("a machine of your own", 0.0, "costs what it costs without Switchboard too")]

    def replaced(self, graph: Graph) -> str:
        return "are refused for the seconds between the old container's end and the new one's readiness"

    def start(self) -> Sequence[Wait]:
        source = f"{MEASURED}, 1 CPU for the container, 2026-11"
        return [Wait("container, imports, pipeline", 0.93, 1.04, source)]


def _container(inputs: Mapping[str, Any]) -> list[str]:
    found = [f"{int(inputs['memory'])} MB"] if inputs.get("memory") else []
    if inputs.get("readOnly"):
        found.append("read-only")
    if inputs.get("networkMode") == "host":
        found.append("the host's network")
    dropped = inputs.get("capabilities", {}).get("drops", ())
    if "ALL" in dropped:
        added = inputs["capabilities"].get("adds", ())
        found.append(f"capabilities {', '.join(added)}" if added else "no capability")
    return found


def _variables(container: Resource) -> dict[str, str]:
    given = container.inputs.get("envs", ())
    pairs = (one.partition("=") for one in given if isinstance(one, str))
    return {name: value for name, _, value in pairs}


def _of_proxy(container: Resource, binds: Sequence[str], variables: Mapping[str, str]) -> Grant:
    limit = {name.removeprefix(PROXY_PREFIX): value for name, value in variables.items()}
    return Grant(
        container.called,
        "the dispatcher, over the control network",
        (
            "create, look at, stop and delete containers of this stack",
            "read their logs",
            *(f"mount {path}, read-only" for path in binds),
        ),
        (f"images of {_listed(limit['REPOSITORIES'])}", f"the network {limit['NETWORK']}"),
        (
            f"at most {limit['MAX_CONTAINERS']} containers",
            f"each up to {limit['MAX_CPU']} CPU, {limit['MAX_MEMORY_MB']} MB, {limit['MAX_SECONDS']} s",
        ),
        "The engine's socket is root on the host; only this container has it, and lets nothing else through.",
    )


def _listed(names: str) -> str:
    return ", ".join(json.loads(names)) or "other registries, by digest"
