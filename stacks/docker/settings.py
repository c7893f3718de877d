"""Settings of the containers of the dispatcher and of the engine's proxy: pure, from the stack's config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dispatcher.engine_proxy.settings import ProxySettings, repository_of
from dispatcher.keys import KeySettings
from dispatcher.machines.container.settings import ContainerPlacement
from dispatcher.settings import IceServer, Settings, is_loopback
from stacks.config import StackConfig
from stacks.docker.config import TURN_PORT
from stacks.docker.firewall_rules import FIREWALL_SOCKET
from stacks.docker.rollout import DIRECTORY, FILE

PLACEMENT = "docker"
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
    """Values that are not in the config: the names of what the stack makes."""

    deployment: str
    network: str
    images: tuple[str, ...]
    """What bots may run, to the letter."""
    repositories: tuple[str, ...]
    """Any image of these, too."""
    page_key_hash: str | None
    turn_secret: str
    machine_networks: tuple[str, ...] = ()
    """The addresses that bots may have."""

    @classmethod
    def none(cls, config: StackConfig) -> Known:
        """Stand-ins, for looking at the config before anything is made."""
        hash_ = None if config.keys else NOT_YET
        return cls("not-known-yet", "not-known-yet", (), (), hash_, "not known yet")


def dispatcher(config: StackConfig, known: Known) -> Settings:
    """The dispatcher's settings.

    Raises:
        ConfigError: the config does not make sense as a whole.
    """
    agents = {
        name: agent.model_copy(update={"bot": bot_in_image(agent.bot, agent.image)})
        for name, agent in config.agents.items()
    }
    placement = ContainerPlacement(
        provider="container",
        engine_url=f"tcp://{ENGINE_ALIAS}:{ENGINE_PORT}",
        deployment=known.deployment,
        network=known.network,
        models=config.docker.models or None,
    )
    optional: dict[str, Any] = {}
    if known.page_key_hash is not None:
        optional["keys"] = (KeySettings(name=PAGE_KEY_NAME, hash=known.page_key_hash, scope="start"),)
    if (url := public_url(config)) is not None:
        optional["public_url"] = url
    if servers := stun_servers(config):
        optional["ice_servers"] = (IceServer(urls=servers),)
    if config.docker.turn:
        optional |= {"turn_urls": turn_urls(config), "turn_secret": known.turn_secret}
    return config.settings(
        # All of its container's addresses; what of it is reachable, the stack's ports say.
        host="0.0.0.0",  # noqa: S104
        port=DISPATCHER_PORT,
        data_dir=Path(DIRECTORY),
        machine_url=f"http://{DISPATCHER_ALIAS}:{DISPATCHER_PORT}",
        machine_networks=known.machine_networks,
        placements={PLACEMENT: placement},
        agents=agents,
        images_file=Path(DIRECTORY) / FILE,
        **optional,
    )


def proxy(config: StackConfig, known: Known) -> ProxySettings:
    """The engine proxy's settings."""
    agents = config.agents.values()
    optional: dict[str, Any] = {"firewall": Path(FIREWALL_SOCKET)} if config.docker.firewall else {}
    return ProxySettings(
        deployment=known.deployment,
        network=known.network,
        models=config.docker.models,
        images=tuple(known.images),
        repositories=tuple(known.repositories),
        variables=tuple(sorted({name for agent in agents for name in agent.env})),
        max_cpu=max(agent.cpu for agent in agents),
        max_memory_mb=max(agent.memory_mb for agent in agents),
        max_containers=max_containers(config),
        **optional,
        max_seconds=int(max(agent.max_duration_seconds for agent in agents)) + LATE_SECONDS,
        log_level=config.log_level,
        log_format=config.log_format,
    )


def allowed_images(config: StackConfig, built: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the images that bots may run, to the letter, and the repositories of which they may run any.

    Args:
        built: Repositories of the images that the stack builds.
    """
    given = {agent.image for agent in config.agents.values() if agent.image is not None}
    tagged = {image for image in given if repository_of(image) not in (image, "sha256")}
    return sorted(given - tagged), sorted({*built, *map(repository_of, tagged)})


def table(config: StackConfig, images: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the dispatcher's table of agents' images, from their references."""
    return {
        name: {"image": image, "bot": str(bot_in_image(config.agents[name].bot, config.agents[name].image))}
        for name, image in images.items()
    }


def max_containers(config: StackConfig) -> int:
    """Return twice the sessions that may live: as many containers may have ended and not be removed yet."""
    sessions = sum(agent.max_sessions for agent in config.agents.values())
    if config.max_sessions:
        sessions = min(sessions, config.max_sessions)
    # Sessions that are short leave more of them behind until the next listing.
    return max(2 * sessions, LEAST_CONTAINERS)


def bot_in_image(bot: Path, image: str | None) -> Path:
    """The bot file from `/app`: of an image that we build, in the directory that was copied there."""
    return bot if image is not None else Path(bot.name)


def public_url(config: StackConfig) -> str | None:
    """Return the URL that clients call; None where that may be any of the host's names."""
    docker = config.docker
    if docker.domain:
        return f"https://{docker.domain}"
    if docker.address in ("0.0.0.0", "::"):  # noqa: S104 - it is looked at, not bound
        return None
    host = f"[{docker.address}]" if ":" in docker.address else docker.address
    return f"http://{host}:{config.port}"


def stun_servers(config: StackConfig) -> tuple[str, ...]:
    """On one machine everybody finds each other without."""
    docker = config.docker
    elsewhere = docker.domain or docker.over_ssh or not is_loopback(docker.address)
    public = docker.stun if elsewhere else ()
    # Bots ask the first one alone (aiortc). To our own they come through the engine's network, and it would
    # tell them an address of the host that nobody outside knows.
    return (*public, f"stun:{_turn_host(config)}:{TURN_PORT}") if docker.turn else public


def turn_urls(config: StackConfig) -> tuple[str, ...]:
    host = _turn_host(config)
    return tuple(f"turn:{host}:{TURN_PORT}?transport={transport}" for transport in ("udp", "tcp"))


def _turn_host(config: StackConfig) -> str:
    address = config.docker.turn_address
    return config.docker.domain or (f"[{address}]" if ":" in address else address)
