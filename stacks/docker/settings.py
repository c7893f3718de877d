"""Settings of the containers of the dispatcher and of the engine's proxy: pure, from the stack's config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dispatcher.engine_proxy.settings import ProxySettings, repository_of
from dispatcher.keys import KeySettings
from dispatcher.machines.container.settings import ContainerPlacement
from dispatcher.settings import AgentSettings, IceServer, Settings, is_loopback
from stacks.core_config import CoreConfig
from stacks.docker.config import TURN_PORT, DockerKeys
from stacks.docker.firewall_rules import FIREWALL_SOCKET
from stacks.docker.rollout import DIRECTORY, FILE
from stacks.shared.settings import (
    Placements,
    agents_in_images,
    bot_in_image,
    settings_of,
    without_images,
)

DISPATCHER_ALIAS, ENGINE_ALIAS = "dispatcher", "engine"
"""Names in the stack's own networks."""
DISPATCHER_PORT, ENGINE_PORT = 7860, 2375

PAGE_KEY_NAME = "page"
NOT_YET = "sha256:" + "0" * 64

LATE_SECONDS = 60
"""Time beyond its session that a container may be told to live: the provider says some 30 s more."""


LEAST_CONTAINERS = 500
"""Containers of a deployment before its proxy refuses one. One that has ended takes up to 20 MB, for its
log."""


@dataclass(frozen=True)
class Known:
    """Values that are not in the config, but made by the stack."""

    placements: Placements
    page_key_hash: str | None
    turn_secret: str
    machine_networks: tuple[str, ...] = ()
    """The addresses that bots may have."""

    @classmethod
    def none(cls, config: CoreConfig, placements: Placements) -> Known:
        """Stand-ins, for looking at the config before anything is made."""
        return cls(placements, None if config.keys else NOT_YET, "not known yet")


@dataclass(frozen=True)
class ProxyKnown:
    """Values that the engine's proxy is told, and that are not in the config."""

    deployment: str
    network: str
    images: tuple[str, ...]
    """What bots may run, to the letter."""
    repositories: tuple[str, ...]
    """Any image of these, too."""


def placement(deployment: str, network: str, models: str) -> ContainerPlacement:
    """Return the settings of the placement at the stack's engine."""
    return ContainerPlacement(
        provider="container",
        engine_url=f"tcp://{ENGINE_ALIAS}:{ENGINE_PORT}",
        deployment=deployment,
        network=network,
        models=models or None,
    )


def dispatcher(config: CoreConfig, known: Known) -> Settings:
    """Return the dispatcher's settings.

    Raises:
        ConfigError: the config does not make sense as a whole.
    """
    docker = DockerKeys.of(config).docker
    optional: dict[str, Any] = {}
    if known.page_key_hash is not None:
        optional["keys"] = (KeySettings(name=PAGE_KEY_NAME, hash=known.page_key_hash, scope="start"),)
    if (url := public_url(config)) is not None:
        optional["public_url"] = url
    if servers := stun_servers(config):
        optional["ice_servers"] = (IceServer(urls=servers),)
    if docker.turn:
        optional |= {"turn_urls": turn_urls(config), "turn_secret": known.turn_secret}
    return settings_of(
        config,
        known.placements,
        # All of its container's addresses; what of it is reachable, the stack's ports say.
        host="0.0.0.0",  # noqa: S104
        port=DISPATCHER_PORT,
        data_dir=Path(DIRECTORY),
        machine_url=f"http://{DISPATCHER_ALIAS}:{DISPATCHER_PORT}",
        machine_networks=known.machine_networks,
        agents=agents_in_images(config),
        images_file=Path(DIRECTORY) / FILE,
        **optional,
    )


def proxy(
    config: CoreConfig, agents_there: Mapping[str, AgentSettings], models: str, known: ProxyKnown
) -> ProxySettings:
    """Return the engine proxy's settings.

    Args:
        agents_there: Agents with machines at the engine.
    """
    agents = agents_there.values()
    firewall = DockerKeys.of(config).docker.firewall
    optional: dict[str, Any] = {"firewall": Path(FIREWALL_SOCKET)} if firewall else {}
    return ProxySettings(
        deployment=known.deployment,
        network=known.network,
        models=models,
        images=tuple(known.images),
        repositories=tuple(known.repositories),
        variables=tuple(sorted({name for agent in agents for name in agent.env})),
        max_cpu=max(agent.cpu for agent in agents),
        max_memory_mb=max(agent.memory_mb for agent in agents),
        max_containers=max_containers(config, agents_there),
        **optional,
        max_seconds=int(max(agent.max_duration_seconds for agent in agents)) + LATE_SECONDS,
        log_level=config.log_level,
        log_format=config.log_format,
    )


def allowed_images(agents: Mapping[str, AgentSettings], built: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the images that bots may run, to the letter, and the repositories of which they may run any.

    Args:
        built: Repositories of the images that the stack builds.
    """
    given = {agent.image for agent in agents.values() if agent.image is not None}
    tagged = {image for image in given if repository_of(image) not in (image, "sha256")}
    return sorted(given - tagged), sorted({*built, *map(repository_of, tagged)})


def table(
    config: CoreConfig, images: Mapping[str, str], elsewhere: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """Return the dispatcher's table of agents' images.

    Args:
        images: Agent → the reference of its image at the engine.
        elsewhere: Agent → name of another placement → the reference of its image there.
    """
    return {
        name: {
            **({"image": images[name]} if name in images else {}),
            "bot": str(bot_in_image(agent.bot, agent.image)),
            **({"placements": dict(elsewhere[name])} if elsewhere.get(name) else {}),
        }
        for name, agent in config.agents.items()
        if name in images or elsewhere.get(name)
    }


def in_environment(placements: Placements) -> Placements:
    """Return the placements as the dispatcher's environment has them: without the images of the table."""
    found = {name: without_images(one) for name, one in placements.settings.items()}
    return replace(placements, settings=found)


def max_containers(config: CoreConfig, agents: Mapping[str, AgentSettings]) -> int:
    """Return twice the sessions that may live: as many containers may have ended and not be removed yet."""
    sessions = sum(agent.max_sessions for agent in agents.values())
    if config.max_sessions:
        sessions = min(sessions, config.max_sessions)
    # Sessions that are short leave more of them behind until the next listing.
    return max(2 * sessions, LEAST_CONTAINERS)


def public_url(config: CoreConfig) -> str | None:
    """Return the URL that clients call; None where that may be any of the host's names."""
    docker = DockerKeys.of(config).docker
    if docker.domain:
        return f"https://{docker.domain}"
    if docker.address in ("0.0.0.0", "::"):  # noqa: S104 - it is looked at, not bound
        return None
    host = f"[{docker.address}]" if ":" in docker.address else docker.address
    return f"http://{host}:{config.port}"


def stun_servers(config: CoreConfig) -> tuple[str, ...]:
    """On one machine everybody finds each other without."""
    docker = DockerKeys.of(config).docker
    elsewhere = docker.domain or docker.over_ssh or not is_loopback(docker.address)
    public = docker.stun if elsewhere else ()
    # Bots ask the first one alone (aiortc). To our own they come through the engine's network, and it would
    # tell them an address of the host that nobody outside knows.
    return (*public, f"stun:{_turn_host(config)}:{TURN_PORT}") if docker.turn else public


def turn_urls(config: CoreConfig) -> tuple[str, ...]:
    host = _turn_host(config)
    return tuple(f"turn:{host}:{TURN_PORT}?transport={transport}" for transport in ("udp", "tcp"))


def _turn_host(config: CoreConfig) -> str:
    docker = DockerKeys.of(config).docker
    address = docker.turn_address
    return docker.domain or (f"[{address}]" if ":" in address else address)
