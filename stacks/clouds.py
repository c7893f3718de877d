"""Clouds: the abilities that their packages give, and the registry of those that are installed.

A cloud is a class named by an entry point of the group `switchboard.clouds`, so a cloud may live in a package
of its own. Its module is imported with every stack's config; its program only where a stack uses it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel

from dispatcher.plugins import Plugin, Registry
from dispatcher.settings import AgentSettings
from stacks.core_config import CoreConfig
from stacks.deployment import Deployment, Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.log_sources import Tool
from stacks.plan.review import Review
from stacks.prices import Price
from stacks.stateful import DataTypes, State

GROUP = "switchboard.clouds"


class Placement(Protocol):
    """Ability of a cloud: it provisions a place for bots."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        """Plan the placement from the config alone. Nothing is made or asked.

        Raises:
            ConfigError: It cannot be; the text names the key, the value and what is allowed.
        """
        ...

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        """Describe its resources."""
        ...

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        """Return the price of one running machine of the agent."""
        ...


@runtime_checkable
class AsksCloud(Protocol):
    """Optional ability of a placement: it asks its cloud about the config before anything is made."""

    def ask(self, environment: Environment, planned: PlannedBots, site: Site) -> None:
        """Ask the cloud what only it knows, such as which regions it has.

        Raises:
            ConfigError: The cloud does not have what the config names.
        """
        ...


class Host(Protocol):
    """Ability of a cloud: it runs the dispatcher."""

    def site(self, environment: Environment) -> Site:
        """Return what placements must know of the host, from the config alone."""
        ...

    def check(self, environment: Environment, planned: Sequence[PlannedBots]) -> None:
        """Refuse what can be refused before an engine runs.

        Raises:
            ConfigError: The config as a whole cannot be deployed.
        """
        ...

    def prepare(self, environment: Environment, planned: Sequence[PlannedBots]) -> Site:
        """Describe the resources that placements of the host's own cloud stand on."""
        ...

    def deploy(self, environment: Environment, site: Site, placed: Sequence[PlacedBots]) -> Deployment:
        """Describe the dispatcher, with these placements.

        Args:
            site: What `prepare` returned.
        """
        ...


class CloudKeys(BaseModel):
    """Keys that a cloud adds to a stack's config: its own key, `<cloud>`, and secrets. Each has a default."""

    model_config = CoreConfig.model_config

    @classmethod
    def of(cls, config: CoreConfig) -> Self:
        """Return the config's values of these keys."""
        return cls.model_construct(**{name: getattr(config, name) for name in cls.model_fields})


class Cloud(Plugin):
    """The base of what an entry point names."""

    summary: ClassVar[str] = ""
    """Words for the cloud in the description of `switchboard:cloud`."""
    keys: ClassVar[type[CloudKeys]] = CloudKeys
    """Keys that only stacks of this cloud have."""
    reads: ClassVar[Sequence[str]] = ()
    """Fields of `CoreConfig` that not every cloud reads, and this one does."""
    placement_keys: ClassVar[type[BaseModel] | None] = None
    """Keys of its entries in `switchboard:placements`. None: it gives no placement beside its own host's.
    The cloud's own key, if it has one, is a model that derives from this one."""
    namespaces: ClassVar[Sequence[str]] = ()
    """Providers whose own config keys (`docker-build:host`) a stack may have."""
    bots_in_images: ClassVar[bool] = True
    """False if bots run without images."""
    data_types: ClassVar[DataTypes] = {}
    """Types of its resources that hold the store or Caddy's certificates → words for one in a question before
    it is deleted."""
    variables: ClassVar[Mapping[str, str]] = {}
    """Secret keys → the environment variables that are taken where the config has none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def check_config(self, config: CoreConfig) -> None:
        """Check keys against each other.

        Raises:
            ValueError: They do not fit; the text begins with the key's name.
        """

    def host(self) -> Host | None:
        """Return the ability to run a dispatcher. Import its program here."""
        return None

    def placement(self) -> Placement | None:
        """Return the ability to give a place to bots. Import its program here."""
        return None

    def review(self) -> Review:
        """Return the ability to tell a reviewer what the cloud's resources permit, open, keep and cost."""
        return Review()

    def check_before_run(self, environment: Environment) -> None:
        """Refuse, before an engine runs, what depends on the machine that it runs on.

        Raises:
            ConfigError: The stack cannot come up from here.
        """

    def logs(self, words: Sequence[str], bots: Sequence[str]) -> Tool | None:
        """Return the tool that shows a stack's log lines; None if its command is not this cloud's.

        Args:
            words: The stack's output `log`, a command.
            bots: The stack's output `bots`.
        """
        return None

    def bot_logs(self, bots: Sequence[str]) -> Tool | None:
        """Return the tool that shows lines of bots beside another cloud's dispatcher; None if there is none.

        Args:
            bots: The part of the stack's output `botsElsewhere` that is this cloud's.
        """
        return None

    def check_reachable(self, state: State, values: Mapping[str, str], project: str) -> None:
        """Ask the APIs that delete what a state has of this cloud.

        Args:
            values: The config, decrypted.

        Raises:
            StackError: One does not answer, or refuses the credentials.
        """

    def check_store_stays(self, config: CoreConfig, state: State, stack: str) -> None:
        """Refuse a config that would leave the state's store behind.

        Raises:
            ConfigError: It would.
        """


@dataclass(frozen=True)
class PlacementOf:
    """A placement of a stack: its name, and the cloud that gives it."""

    name: str
    cloud: Cloud


@functools.cache
def registry() -> Registry[Cloud]:
    """Return the registry, which is read once."""
    return Registry(GROUP, Cloud, "cloud")


@functools.cache
def load(name: str) -> Cloud:
    """Return a cloud.

    Raises:
        UnknownPlugin, RegistryError: As the registry says.
    """
    return registry().load(name)(name)


def importable() -> dict[str, Cloud]:
    """Return name → cloud, of all that can be imported."""
    return {name: load(name) for name in registry().importable()}


def data_types() -> DataTypes:
    """Return the types of resources that hold data, of all clouds that can be imported."""
    return {name: words for cloud in importable().values() for name, words in cloud.data_types.items()}


def placements_of(config: CoreConfig) -> list[PlacementOf]:
    """Return the stack's placements, in the order in which agents that name none ask them.

    The placement called as the host's cloud comes first, then others of that cloud, then all else; each in
    alphabetical order, since an engine hands over mappings sorted.
    """
    if not config.placements:
        return [PlacementOf(config.cloud, load(config.cloud))]
    found = [PlacementOf(name, load(entry.cloud)) for name, entry in config.placements.items()]
    own = config.cloud
    return sorted(found, key=lambda one: (one.name != own, one.cloud.name != own, one.name))


def used_by(config: CoreConfig) -> list[Cloud]:
    """Return the host's cloud and those of the placements, in their order, each once."""
    found = {one.name: one for one in (load(config.cloud), *(one.cloud for one in placements_of(config)))}
    return list(found.values())


def keys_of(config: CoreConfig, name: str) -> BaseModel:
    """Return the keys of a placement: its entry's, and for the rest those of its cloud's own key.

    Raises:
        pydantic.ValidationError: The entry is refused.
    """
    entry = config.placements.get(name)
    cloud = load(config.cloud if entry is None else entry.cloud)
    section = getattr(config, cloud.name.replace("-", "_"), None)
    model = cloud.placement_keys
    if model is None:
        raise TypeError(f"cloud {cloud.name} has no keys of placements")
    if entry is None:
        return section if isinstance(section, BaseModel) else model()
    given: dict[str, Any] = {}
    if isinstance(section, BaseModel):
        given = section.model_dump(by_alias=True, exclude_unset=True, include=set(model.model_fields))
    return model.model_validate({**given, **entry.keys})


def load_program(module: str, cloud: str) -> ModuleType:
    """Import a cloud's program.

    Raises:
        ConfigError: A package is missing, which other stacks do not have.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.split(".")[0] in ("stacks", "dispatcher", "bot", ""):
            raise
        raise ConfigError(
            f"switchboard:cloud: {cloud} needs the package {missing}, which is not installed; "
            f"`make up STACK=…` installs it, or: pip install -r requirements-{cloud}.txt"
        ) from None
