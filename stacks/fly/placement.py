"""A place for bots at Fly: each agent's apps, with its variables as secrets, and the images in a registry."""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass
from typing import TypedDict, cast

import pulumi
import pulumi_docker_build as docker_build
from pydantic import SecretStr

from dispatcher.machines.settings import PlacementSettings
from dispatcher.settings import AgentSettings
from stacks.clouds import keys_of
from stacks.deployment import Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.fly import offers, prices, settings
from stacks.fly.agents import AgentApps, AgentAppsArgs
from stacks.fly.config import FlyKeys, FlyPlacementConfig
from stacks.fly.registry import RegistryApp, RegistryAppArgs
from stacks.fly.tokens import bare, period_of
from stacks.prices import Price
from stacks.shared.environment import given
from stacks.shared.images import Images, ImagesArgs
from stacks.shared.settings import agents_at, own_name, url_for_machines, without_images

REGISTRY = "registry.fly.io"
REGISTRY_USER = "x"
"""Fly's registry looks at the password alone, which is a token."""

STAND_IN_TOKEN = "not known yet"  # noqa: S105 - it opens nothing


@dataclass(frozen=True, kw_only=True)
class FlySite(Site):
    """A host at Fly, as placements there see it."""

    images: Images
    """Images in the registry of the dispatcher's app."""
    app: str
    push_token: pulumi.Output[str]


class FlyPlacement:
    """Ability of the cloud `fly` to give a place to bots."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        config = environment.config
        machine_url = url_for_machines(site, settings.CLOUD, name)
        called = settings.names(environment, name)
        keys = cast(FlyPlacementConfig, keys_of(config, name))
        parts = settings.placements(config, name, called, keys, machine_url)
        own = own_name(name, site)
        images = settings.not_built(agents_at(config, name))
        return PlannedBots(
            name=name,
            cloud=settings.CLOUD,
            keys=keys,
            settings={
                _part(agent, name, own): part if own else _with_image(part, agent, images[agent])
                for agent, part in parts.items()
            },
            by_agent={agent: (_part(agent, name, own),) if agent in parts else () for agent in config.agents},
            images=images,
            names=[f"app {app}" for app in _apps(environment, name, called, keys, site)],
            shared={
                "fly_api_url": FlyKeys.of(config).fly.api_url,
                settings.TOKEN_SETTING: SecretStr(STAND_IN_TOKEN),
            },
        )

    def ask(self, environment: Environment, planned: PlannedBots, site: Site) -> None:
        keys, own = cast(FlyPlacementConfig, planned.keys), own_name(planned.name, site)
        path = "switchboard:fly" if own else _path(planned.name)
        offers.check(environment.config, keys.regions, path)

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        config, name = environment.config, planned.name
        keys, fly = cast(FlyPlacementConfig, planned.keys), FlyKeys.of(config).fly
        called = settings.names(environment, name)
        prefix = "" if own_name(name, site) else f"{name}-"
        agents = agents_at(config, name)
        lifetimes = lifetimes_of(keys)
        apps = {
            agent: AgentApps(
                f"{prefix}{agent}-apps",
                AgentAppsArgs(
                    agent=f"{prefix}{agent}",
                    names=[called.bots(agent, shard) for shard in range(keys.apps)],
                    org=keys.org,
                    variables=of.env,
                    environment=given(of.env),
                    adopt=fly.adopt,
                    **lifetimes,
                ),
            )
            for agent, of in agents.items()
        }
        images = self._images(environment, planned, site, prefix)
        built = images.bots(agents, keys).agents
        tokens = {app: token for of in apps.values() for app, token in of.tokens.items()}
        return PlacedBots(
            planned=planned,
            settings={
                part: _settings(planned.settings[part], agent, built[agent], own=prefix == "", site=site)
                for agent in agents
                for part in planned.by_agent[agent]
            },
            images=built,
            secrets={settings.DISPATCHER_TOKEN_VARIABLE: tokens},
            needed=images.built,
            swept=[one for of in apps.values() for one in of.swept],
            logs=[app for of in apps.values() for app in of.tokens],
        )

    def _images(self, environment: Environment, planned: PlannedBots, site: Site, prefix: str) -> Images:
        """Return the images of the placement's registry: that of the dispatcher's app, or one of its own."""
        keys = cast(FlyPlacementConfig, planned.keys)
        if isinstance(site, FlySite):
            if not prefix:
                return site.images
            app, token = site.app, site.push_token
        else:
            called = settings.names(environment, planned.name)
            app = called.dispatcher
            token = RegistryApp(
                f"{prefix}registry",
                RegistryAppArgs(
                    logical=f"{prefix}registry",
                    name=app,
                    org=keys.org,
                    adopt=FlyKeys.of(environment.config).fly.adopt,
                    **lifetimes_of(keys),
                ),
            ).push_token
        return Images(f"{prefix}images", images_args(environment, app, token, keys), prefix)

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        return prices.price(cast(FlyPlacementConfig, planned.keys).cpu_kind, agent)


def _apps(
    environment: Environment, name: str, called: settings.Names, keys: FlyPlacementConfig, site: Site
) -> list[str]:
    """Return the apps that a placement makes. Raises ConfigError if the host's is among them."""
    agents = agents_at(environment.config, name)
    bots = [called.bots(agent, shard) for agent in agents for shard in range(keys.apps)]
    if site.cloud != settings.CLOUD:
        # Its images are in the registry of an app of its own.
        return [called.dispatcher, *bots]
    if (host := settings.host_names(environment).dispatcher) in bots:
        raise ConfigError(
            f"{_path(name)}.prefix: {called.prefix!r} is refused, since {host} is the dispatcher's app; "
            "allowed: another prefix"
        )
    return bots


def images_args(
    environment: Environment, app: str, token: pulumi.Output[str], keys: FlyPlacementConfig
) -> ImagesArgs:
    """Return the arguments of images in an app's registry."""
    login = docker_build.RegistryArgs(address=REGISTRY, username=REGISTRY_USER, password=token.apply(bare))
    return ImagesArgs(
        checkout=environment.checkout,
        reference=lambda name, mark: f"{REGISTRY}/{app}:{name}-{mark}",
        pushed=True,
        base=keys.base,
        compression=keys.compression,
        logins=[login],
        platforms=[docker_build.Platform.LINUX_AMD64],
    )


class Lifetimes(TypedDict):
    """Lifetime of tokens, as the components take it."""

    token_days: int
    token_period: str


def lifetimes_of(keys: FlyPlacementConfig) -> Lifetimes:
    """Return the lifetime of tokens, as the components take it."""
    today = datetime.datetime.now(datetime.UTC).date()
    return {"token_days": keys.token_days, "token_period": period_of(today, keys.token_days)}


def _settings(
    part: PlacementSettings, agent: str, image: pulumi.Output[str], *, own: bool, site: Site
) -> pulumi.Input[PlacementSettings]:
    """Return the settings of an agent's part: with its image, unless the host has it elsewhere."""
    if own:
        return part
    if site.has_image_table:
        return without_images(part)
    return image.apply(functools.partial(_with_image, part, agent))


def _with_image(part: PlacementSettings, agent: str, image: str) -> PlacementSettings:
    return part.model_copy(update={"images": {agent: image}})


def _part(agent: str, name: str, own: bool) -> str:
    """Return the name of the dispatcher's placement for an agent."""
    return agent if own else f"{name}-{agent}"


def _path(name: str) -> str:
    return f"switchboard:placements.{name}"
