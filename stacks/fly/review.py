"""The cloud `fly` for a reviewer: what its apps and tokens may do, open and keep."""

from __future__ import annotations

from collections.abc import Sequence

from stacks.deployment import Environment
from stacks.fly import prices
from stacks.plan.graph import Graph, Resource
from stacks.plan.review import (
    INTERNET,
    Cost,
    Grant,
    Kept,
    Opening,
    Review,
    Runs,
    SecretUse,
    Wait,
    ranges,
    with_keys,
)

KIND = "pulumi-python:dynamic/switchboard:Fly"
APP, MACHINE, TOKEN = f"{KIND}App", f"{KIND}Machine", f"{KIND}DeployToken"
SECRETS, VOLUME, ADDRESS = f"{KIND}Secrets", f"{KIND}Volume", f"{KIND}IpAddress"

VOLUME_GB_MONTH = 0.15
"""USD, of fly.io/docs/about/pricing as third parties have it, 2026-09."""


class FlyReview(Review):
    """The graph of a `fly` stack or placement."""

    def facts(self, resource: Resource) -> str | None:
        inputs = resource.inputs
        match resource.type:
            case _ if resource.type == APP:
                return f"{inputs['name']} of {inputs['org']}, in the private network {inputs['network']}"
            case _ if resource.type == MACHINE:
                guest = inputs["config"]["guest"]
                size = f"{guest['cpu_kind']}, {int(guest['cpus'])} CPUs, {int(guest['memory_mb'])} MB"
                return f"{inputs['region']}, {size}"
            case _ if resource.type == VOLUME:
                kept = f"snapshots for {inputs['snapshotDays']:g} days"
                return f"{inputs['region']}, {inputs['sizeGb']:g} GB, {kept}"
            case _ if resource.type == TOKEN:
                return f"for the app {inputs['app']}, {inputs['days']:g} days"
            case _ if resource.type == ADDRESS:
                return str(inputs["type"])
        return None

    def grants(self, graph: Graph) -> Sequence[Grant]:
        found = []
        for one in graph.of(TOKEN):
            pushes = one.name.endswith("push-token")
            found.append(
                Grant(
                    f"deploy token {one.name}",
                    "the image build" if pushes else "the dispatcher",
                    ("push images",) if pushes else ("create, look at, stop and delete machines",),
                    (f"the app {one.inputs['app']}",),
                    (f"expires {one.inputs['days']:g} days after `make up` made it",),
                    "Fly's tokens are good for whole apps: a deploy token may also change the app's secrets.",
                )
            )
        return found

    def openings(self, graph: Graph) -> Sequence[Opening]:
        found = []
        for one in graph.of(MACHINE):
            for service in one.inputs["config"].get("services", ()):
                ports = ranges(int(port["port"]) for port in service["ports"])
                found.append(
                    Opening(
                        INTERNET,
                        f"{one.inputs['app']}, through Fly's proxy",
                        service["protocol"],
                        ports,
                        "The voice page and the API; port 80 only redirects",
                        "TLS by Fly's proxy; WireGuard behind it",
                    )
                )
        return found

    def egress(self, graph: Graph) -> Sequence[str]:
        if not graph.of(APP):
            return ()
        return [
            "bots and the dispatcher: anywhere on the internet; each app's private network has only its own "
            "machines"
        ]

    def secrets(self, environment: Environment, graph: Graph) -> Sequence[SecretUse]:
        found = [
            SecretUse(
                with_keys(environment, f"secrets of the app {one.inputs['app']}", _agent(environment, one)),
                "Fly's vault",
                f"machines of {one.inputs['app']}",
                "`make up` sets a changed value; machines that start afterwards have it",
            )
            for one in graph.of(SECRETS)
        ]
        found += [
            SecretUse(
                f"deploy token of the app {one.inputs['app']}",
                "the stack's state, encrypted"
                + ("" if one.name.endswith("push-token") else ", and the dispatcher's secrets"),
                "the image build" if one.name.endswith("push-token") else "the dispatcher",
                f"`make up` makes a new one; it expires after {one.inputs['days']:g} days",
            )
            for one in graph.of(TOKEN)
        ]
        return found

    def kept(self, graph: Graph) -> Sequence[Kept]:
        # Fly encrypts volumes unless it is told not to, which this program cannot.
        return [Kept(one.name, "the store", True, store=True) for one in graph.of(VOLUME)]

    def runs(self, graph: Graph) -> Sequence[Runs]:
        return [
            Runs(one.name, one.inputs["config"]["image"], one.inputs["config"].get("env", {}))
            for one in graph.of(MACHINE)
        ]

    def idle(self, graph: Graph) -> Sequence[Cost]:
        found = []
        for one in graph.of(MACHINE):
            guest = one.inputs["config"]["guest"]
            usd = prices.month(guest["cpu_kind"], int(guest["cpus"]), int(guest["memory_mb"]))
            found.append(Cost(f"{one.inputs['name']}, which runs always", usd, prices.FLY_LIST))
        found += [
            Cost(
                f"volume {one.name}, {one.inputs['sizeGb']:g} GB",
                one.inputs["sizeGb"] * VOLUME_GB_MONTH,
                prices.FLY_LIST,
            )
            for one in graph.of(VOLUME)
        ]
        return found

    def replaced(self, graph: Graph) -> str:
        if len(graph.of(MACHINE)) > 1:
            return "are taken all the time: one machine is replaced after the other"
        return "are refused for some 20 s, since there is one machine"

    def start(self) -> Sequence[Wait]:
        source = "Fly's docs: creating takes seconds, up to low double digits; not measured by us"
        return [Wait("a machine: image, boot, bot", 3, 20, source)]


def _agent(environment: Environment, secrets: Resource) -> str:
    """Return the agent whose variables an app's secrets have: `<app>-<agent>-<number>`; empty if none."""
    app = str(secrets.inputs["app"]).rpartition("-")[0]
    return max((one for one in environment.config.agents if app.endswith(f"-{one}")), key=len, default="")
