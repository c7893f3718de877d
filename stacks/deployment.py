"""A cloud's program: its input, its output, and the names and tags that all of them share."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pulumi
from pulumi.runtime import config as engine_config
from pydantic import BaseModel

from dispatcher.machines.settings import PlacementSettings
from stacks.config import StackConfig, parse
from stacks.errors import ConfigError
from stacks.prices import price_of
from stacks.refusals import masked
from stacks.secret_keys import refuse_in_clear


@dataclass(frozen=True)
class Environment:
    """The stack that a program describes, and the checkout that it is made from."""

    project: str
    stack: str
    checkout: Path
    config: StackConfig

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
    records: pulumi.Input[Sequence[str]] | None = None
    """DNS records that have to be there, if there are any."""

    def export(self, config: StackConfig) -> None:
        pulumi.export("url", self.url)
        asked = bool(config.keys)
        start = pulumi.Output.from_input(self.url).apply(lambda url: start_command(url, asked=asked))
        pulumi.export("start", start)
        pulumi.export("log", self.log)
        pulumi.export("data", self.data)
        if self.bots:
            pulumi.export("bots", list(self.bots))
        # As it is deployed: who reads it needs no config, which may have changed, or be encrypted.
        pulumi.export(
            "prices", {name: price_of(config, agent).shown() for name, agent in config.agents.items()}
        )
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


UNSET_VARIABLE = "SWITCHBOARD_UNSET"
"""Names the variables that bots are to do without, for this run: `make up UNSET=…`, or with `pulumi up`."""


def meant_unset() -> frozenset[str]:
    """Return the names of variables that are not set here, and are not to be."""
    return frozenset(os.environ.get(UNSET_VARIABLE, "").replace(",", " ").split())


def refuse_missing(config: StackConfig) -> None:
    """Refuse an agent's variables that are not set where the engine runs.

    An empty one is not set: a CI gives a secret that it does not have as that. Bots would be started
    without, and an up from another shell would take them from a stack that has them.

    Raises:
        ConfigError: a variable is missing; or UNSET names one that no agent has, or that is set.
    """
    named = {variable for agent in config.agents.values() for variable in agent.env}
    meant = meant_unset()
    if unknown := sorted(meant - named):
        allowed = ", ".join(sorted(named)) or "nothing, since no agent has variables"
        shown = ", ".join(map(masked, unknown))
        raise ConfigError(f"UNSET: {shown}: no agent's env names it; allowed: {allowed}")
    if given := sorted(name for name in meant if os.environ.get(name)):
        raise ConfigError(
            f"UNSET: {', '.join(given)}: set here, so the bots would get it; allowed: without it in UNSET, "
            f"or without it in the environment (unset {' '.join(given)})"
        )
    lines = []
    for name, agent in config.agents.items():
        if missing := [one for one in agent.env if not os.environ.get(one) and one not in meant]:
            names = ",".join(missing)
            lines.append(
                f"switchboard:agents.{name}.env: not set here, or empty: {', '.join(missing)}; allowed: "
                f"the value in the environment, or UNSET={names} (with pulumi: "
                f"{UNSET_VARIABLE}={names}) to do without"
            )
    if lines:
        raise ConfigError("\n".join(lines))


def program_of(cloud: str) -> ModuleType:
    """The module that describes a stack of this cloud: it is loaded only where it runs.

    Raises:
        ConfigError: a package of the cloud's providers is missing, which other stacks do not have.
    """
    try:
        return importlib.import_module(f"stacks.{cloud}.program")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pulumi_docker"):
            raise
        raise ConfigError(
            f"switchboard:cloud: {cloud} needs the package {error.name}, which is not installed; "
            f"`make up STACK=…` installs it, or: pip install -r requirements-{cloud}.txt"
        ) from None


def current_environment(checkout: Path) -> Environment:
    """The environment of the running program. Raises pulumi.RunError, which shows without a traceback."""
    project, stack = pulumi.get_project(), pulumi.get_stack()
    # `pulumi.Config` answers for single keys only, so an unknown one would go unseen. A program in the
    # driver's own process has its config in CONFIG, one under the language host has it in its environment.
    values = {**engine_config.get_config_env(), **engine_config.CONFIG.get()}
    # Likewise of which keys are encrypted.
    secret = {key for key in values if engine_config.is_config_secret(key)}
    secret.update(engine_config.get_config_secret_keys_env())
    place = f"the config of stack {stack}"
    try:
        refuse_in_clear(values, project=project, stack=stack, place=place, secret=secret)
        config = parse(values, project=project, checkout=checkout, stack=stack)
        refuse_missing(config)
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from None
    return Environment(project, stack, checkout, config)
