"""The part of a review that a cloud knows: what its resources permit, open, keep and cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stacks.deployment import Environment
from stacks.plan.graph import Graph, Resource

_ALL = re.compile(
    r"""
    \*                                  # Not an ARN.
    | arn: ([^:]*:){0,3} [^:]* \* [^:]* $  # An ARN that ends before its resource.
    | arn: ([^:]*:){4} ([\w-]+[/:])? \*   # Partition, service, region, account; then the resource.
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Grant:
    """A permission: an identity may do something to something."""

    identity: str
    """Role, account or process that has it."""
    assumed_by: str
    """Who acts as this identity."""
    does: Sequence[str]
    """Actions as the cloud calls them."""
    to: Sequence[str]
    """Resources; a reference where one is only known once it is made."""
    only_if: Sequence[str] = ()
    """Conditions, in words."""
    reason: str = ""
    unlimited: Sequence[str] = ()
    """Actions that stand for all without a `*`: a basic role of Google's, a policy whose text is not here."""

    @property
    def wildcards(self) -> list[str]:
        """Return the actions, and the resources, that stand for all.

        An action stands for all with a `*` anywhere: `ecs:*`, `s3:Get*`. So does an ARN whose resource begins
        with one, after its type if it has one: `arn:aws:s3:::*`, `…:task/*`. What has a name of the
        stack before its `*` does not: `/switchboard/bots:*`, `…:task/switchboard/*`.
        """
        stars = [one for one in self.does if "*" in one]
        return [*self.unlimited, *stars, *(one for one in self.to if _ALL.match(one))]


@dataclass(frozen=True)
class Opening:
    """A port that somebody reaches."""

    reached_from: str
    """Where connections come from: `the internet`, or a name."""
    to: str
    protocol: str
    """`tcp`, `udp`, `tcp and udp`, or words for more than these."""
    ports: Sequence[range]
    reason: str
    encrypted_by: str
    """Protocol and party that encrypt what passes."""

    @property
    def public(self) -> bool:
        return self.reached_from == INTERNET

    @property
    def ports_shown(self) -> str:
        """Return the ports as text: `80, 49160–49200`."""
        return ", ".join(
            str(one.start) if len(one) == 1 else f"{one.start}–{one.stop - 1}" for one in self.ports
        )


INTERNET = "the internet"

MEASURED = "best and median of seven by `python -m tests.bench.image_steps` on two busy cores"
"""Source of starts in docs/images.md."""

EVERY_PORT = (range(65536),)
EVERY_PROTOCOL = "every protocol"


@dataclass(frozen=True)
class SecretUse:
    """A secret of the stack, never its value."""

    name: str
    kept_in: str
    read_by: str
    rotated: str
    """How it is changed, in words."""


@dataclass(frozen=True)
class Kept:
    """A resource in which data stays."""

    name: str
    """Its logical name."""
    holds: str
    encrypted: bool | None
    """None: the graph does not tell, as of a disk of your own."""
    days: int | None = None
    """Days that log lines are kept; None: for ever, or it holds no log lines."""
    logs: bool = False
    store: bool = False
    """True if it holds data that nothing else has."""


@dataclass(frozen=True)
class Runs:
    """A container that the stack describes."""

    name: str
    """Logical name of its resource."""
    image: str
    variables: Mapping[str, str]
    """Variables in clear."""


@dataclass(frozen=True)
class Cost:
    """A part of what a stack costs without a call."""

    what: str
    usd_month: float | None
    """USD in 30 days; None: not known."""
    source: str
    """Price list and its date, and how sure the figure is."""


@dataclass(frozen=True)
class Wait:
    """A step of a machine's start."""

    step: str
    least_seconds: float
    most_seconds: float
    source: str


def ranges(ports: Iterable[int]) -> list[range]:
    """Return ports in order, neighbours as one range."""
    found: list[range] = []
    for port in sorted(ports):
        if found and port == found[-1].stop:
            found[-1] = range(found[-1].start, port + 1)
        else:
            found.append(range(port, port + 1))
    return found


def keys_of_agents(environment: Environment, kept_in: str) -> list[SecretUse]:
    """Return the agents' variables, for clouds without a secret store of their own.

    Args:
        kept_in: Place of the values.
    """
    return [
        SecretUse(
            f"{', '.join(agent.env)} of agent {name}",
            kept_in,
            f"bots of {name}, and the dispatcher, which hands them over",
            "a new value in the environment of `make up`; bots that start afterwards have it",
        )
        for name, agent in environment.config.agents.items()
        if agent.env
    ]


def with_keys(environment: Environment, words: str, agent: str) -> str:
    """Return words for a secret, after the names of the agent's variables that are in it."""
    found = environment.config.agents.get(agent)
    return words if found is None or not found.env else f"{', '.join(found.env)} of agent {agent}: {words}"


class Review:
    """A cloud's part of a review. Each method may be left as it is where a cloud has nothing of the kind."""

    def stand_ins(self, type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return outputs of a resource that the program looks into, so that a reference would not do."""
        return {}

    def answer(self, token: str) -> Mapping[str, Any] | None:
        """Return the answer to a function of the cloud's provider; None if it is not this cloud's."""
        return None

    def facts(self, resource: Resource) -> str | None:
        """Return what matters of a resource, in a line; None if it is not this cloud's, or nothing does."""
        return None

    def grants(self, graph: Graph) -> Sequence[Grant]:
        """Return the permissions that the stack grants."""
        return ()

    def openings(self, graph: Graph) -> Sequence[Opening]:
        """Return the ports that somebody reaches."""
        return ()

    def egress(self, graph: Graph) -> Sequence[str]:
        """Return where connections of the stack's parts may go, a line each."""
        return ()

    def secrets(self, environment: Environment, graph: Graph) -> Sequence[SecretUse]:
        """Return the secrets of the stack."""
        return ()

    def kept(self, graph: Graph) -> Sequence[Kept]:
        """Return the resources in which data stays."""
        return ()

    def runs(self, graph: Graph) -> Sequence[Runs]:
        """Return the containers that the stack describes."""
        return ()

    def idle(self, graph: Graph) -> Sequence[Cost]:
        """Return what the stack costs in a month without a call."""
        return ()

    def replaced(self, graph: Graph) -> str | None:
        """Return what becomes of starts while a dispatcher here is replaced; None: not known."""
        return None

    def start(self) -> Sequence[Wait]:
        """Return the steps of a start at this cloud, from nothing."""
        return ()
