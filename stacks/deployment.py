"""A cloud's program: its input, its output, and the names and tags that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pulumi
from pydantic import BaseModel

from dispatcher.machines.settings import PlacementSettings
from stacks.core_config import CoreConfig
from stacks.prices import Price


@dataclass(frozen=True)
class Environment:
    """The stack that a program describes, and the checkout that it is made from."""

    project: str
    stack: str
    checkout: Path
    config: CoreConfig

    def name(self, part: str) -> str:
        """A name for what the outside sees, unique per stack: `switchboard-local-dispatcher`."""
        return f"{self.project}-{self.stack}-{part}"

    def child_urn(self, component: str, type_: str, name: str) -> str:
        """Return the URN of a resource in a component of this type."""
        return f"urn:pulumi:{self.stack}::{self.project}::{component}${type_}::{name}"

    def tags(self, agent: str | None = None) -> dict[str, str]:
        tags = {"project": self.project, "stack": self.stack}
        return tags if agent is None else {**tags, "agent": agent}


@dataclass(frozen=True)
class Site:
    """The host as placements see it. A derived class has resources for placements of its own cloud."""

    cloud: str
    machine_url: str | None
    """URL at which machines of other clouds reach the dispatcher; None if they cannot."""
    reached_by: str = ""
    """Key that gives a host such a URL, in words: `with switchboard:docker.domain, its public name`."""
    has_image_table: bool = False
    """True if the dispatcher reads agents' images from a table while it runs: placements whose settings have
    `takes_images_file` then leave `images` out of what they tell it."""

    @classmethod
    def of(cls, site: Site) -> Self:
        """Return a site as this class.

        Raises:
            TypeError: It is another host's.
        """
        if not isinstance(site, cls):
            raise TypeError(f"this is the site of cloud {site.cloud}, not a {cls.__name__}")
        return site


@dataclass(frozen=True, kw_only=True)
class PlannedBots:
    """A placement before anything is made: pure, from the config, with stand-ins for what the stack makes."""

    name: str
    """Its key in `switchboard:placements`; without that key, the name of its cloud."""
    cloud: str
    keys: BaseModel
    """Its own keys, as the cloud's model has them."""
    settings: Mapping[str, PlacementSettings] = field(default_factory=dict)
    """Name of a dispatcher's placement → its settings. Most clouds have one, called as the stack's. A
    cloud that needs one for each agent calls it `<name>-<agent>`."""
    by_agent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Agent → the names in `settings` that its machines may be at, in order. No entry: all of them."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Agent → the reference of its image, or a stand-in. Empty where bots run without images."""
    names: Sequence[str] = ()
    """Names that it takes at its cloud, in words: `app acme-echo-0`. Each is one placement's alone."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Deployment-wide settings of the provider (`fly_api_url` → value), with stand-ins for secret ones."""


@dataclass(frozen=True, kw_only=True)
class PlacedBots:
    """A place for bots, as a cloud's `placement` provisions it and its `host` is told of it."""

    planned: PlannedBots
    settings: Mapping[str, pulumi.Input[PlacementSettings]] = field(default_factory=dict)
    """The keys of `planned.settings` → settings with what the stack made; no output where all is known."""
    images: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    """Agent → the reference of its image in this placement's registry, by digest."""
    secrets: Mapping[str, pulumi.Input[str] | Mapping[str, pulumi.Input[str]]] = field(default_factory=dict)
    """Variable of the dispatcher → its secret value. A mapping is a JSON object to which every placement adds
    (Fly's tokens by app); any other variable may come from one placement alone."""
    permissions: Sequence[Mapping[str, Any]] = ()
    """Statements in the words of `planned.cloud` that the dispatcher needs. A host of that cloud reads them
    and grants them to the dispatcher's identity. Where `Site.cloud` is another cloud, the placement gives
    credentials in `secrets` in their place, or refuses in `plan`."""
    needed: Sequence[pulumi.Resource] = ()
    """Resources that the dispatcher must start after."""
    swept: Sequence[pulumi.Resource] = ()
    """Resources whose deletion ends the machines that the dispatcher left. The host's dispatcher depends
    on them: `make down` deletes them after it, when nobody starts bots any more."""
    logs: Sequence[str] = ()
    """Names under which the cloud's own tool shows bots' lines: labels, apps, log groups."""


@dataclass(frozen=True)
class Deployment:
    """Outputs of a deployed stack."""

    url: pulumi.Input[str]
    """The voice page and the API."""
    log: pulumi.Input[str]
    """Where the dispatcher's log is: a file, or a command that shows it."""
    data: pulumi.Input[str]
    """Where the store is: a directory, or a volume."""
    bots: Sequence[str] = ()
    """Where bots are whose lines that command's tool shows: the label of their containers, or their apps."""
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Another cloud than the host's → where bots are there, in the same form."""
    records: pulumi.Input[Sequence[str]] | None = None
    """DNS records that have to be there, if there are any."""

    def export(self, config: CoreConfig, prices: Mapping[str, Price]) -> None:
        """Export the outputs.

        Args:
            prices: Agent → the price of its machine.
        """
        pulumi.export("url", self.url)
        asked = bool(config.keys)
        start = pulumi.Output.from_input(self.url).apply(lambda url: start_command(url, asked=asked))
        pulumi.export("start", start)
        pulumi.export("log", self.log)
        pulumi.export("data", self.data)
        if self.bots:
            pulumi.export("bots", list(self.bots))
        if self.elsewhere:
            pulumi.export("botsElsewhere", {name: list(of) for name, of in self.elsewhere.items()})
        # As it is deployed: who reads it needs no config, which may have changed, or be encrypted.
        pulumi.export("prices", {name: price.shown() for name, price in prices.items()})
        if self.records is not None:
            pulumi.export("records", self.records)


def start_command(url: str, asked: bool) -> str:
    """Return the command that starts a session of the default agent from a shell.

    Args:
        asked: Callers need a key. It is a variable, so that no terminal's history has it.
    """
    page, _, key = url.partition("/#key=")
    bearer = f' -H "Authorization: Bearer {key or "$SWITCHBOARD_KEY"}"' if key or asked else ""
    return f"curl --fail-with-body -X POST {page}/start{bearer} -H 'Content-Type: application/json' -d '{{}}'"
