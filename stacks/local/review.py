"""The cloud `local` for a reviewer: processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence

from stacks.deployment import Environment
from stacks.plan.graph import Graph, Resource
from stacks.plan.review import (
    INTERNET,
    MEASURED,
    Cost,
    Grant,
    Opening,
    Review,
    SecretUse,
    Wait,
    keys_of_agents,
    ranges,
)

DISPATCHER = "pulumi-python:dynamic/switchboard:Dispatcher"


class LocalReview(Review):
    """The graph of a `local` stack."""

    def facts(self, resource: Resource) -> str | None:
        if resource.type != DISPATCHER:
            return None
        return f"http://{resource.inputs['host']}:{int(resource.inputs['port'])}"

    def grants(self, graph: Graph) -> Sequence[Grant]:
        return [
            Grant(
                "dispatcher and bots",
                "whoever runs `make up`",
                ("what that account may do",),
                ("this machine",),
                reason="As root, bots get accounts of their own and a view of few files; see security.md.",
            )
        ]

    def openings(self, graph: Graph) -> Sequence[Opening]:
        return [
            Opening(
                "this machine" if one.inputs["host"] in ("127.0.0.1", "::1") else INTERNET,
                f"the dispatcher at {one.inputs['host']}",
                "tcp",
                ranges((int(one.inputs["port"]),)),
                "The voice page and the API",
                "not encrypted",
            )
            for one in graph.of(DISPATCHER)
        ]

    def egress(self, graph: Graph) -> Sequence[str]:
        return ["bots and the dispatcher: anywhere"]

    def secrets(self, environment: Environment, graph: Graph) -> Sequence[SecretUse]:
        return [
            SecretUse(
                "signing key of machines' tokens",
                "the data directory",
                "the dispatcher",
                "the dispatcher makes it at its first start; deleting the file makes another",
            ),
            *keys_of_agents(environment, "the stack's state, encrypted, and the dispatcher's environment"),
        ]

    def idle(self, graph: Graph) -> Sequence[Cost]:
        return [Cost("this machine", 0.0, "costs what it costs without Switchboard too")]

    def replaced(self, graph: Graph) -> str:
        return "are refused for the seconds between the old process's end and the new one's readiness"

    def start(self) -> Sequence[Wait]:
        source = f"{MEASURED}, its columns of `local`, 2026-11"
        return [Wait("process, imports, pipeline", 0.29, 0.30, source)]
