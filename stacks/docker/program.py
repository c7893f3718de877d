"""The program of a `docker` stack: which components it has, and what each is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import pulumi
import pulumi_docker as docker
import pulumi_docker_build as docker_build

from dispatcher.engine_proxy.settings import PROXY_PREFIX
from dispatcher.settings import ENVIRONMENT_PREFIX
from stacks import daily, ice
from stacks.config import StackConfig
from stacks.deployment import Deployment, Environment
from stacks.docker import settings
from stacks.docker.allowed import AllowedImages
from stacks.docker.bots import Machines
from stacks.docker.containers import volume
from stacks.docker.dispatcher import Dispatcher, DispatcherArgs
from stacks.docker.edge import Edge, EdgeArgs
from stacks.docker.engine import EngineProxy, EngineProxyArgs
from stacks.docker.firewall import Firewall, FirewallArgs, reached
from stacks.docker.images import Images, ImagesArgs
from stacks.docker.network import Networks, NetworksArgs
from stacks.docker.rollout import Rollout
from stacks.docker.secret import PageKey, SharedSecret
from stacks.docker.settings import Known
from stacks.docker.turn import Turn, TurnArgs
from stacks.local.dispatcher import TRACING_PREFIX
from stacks.stateful import CERTIFICATES, DOCKER_VOLUME, STORE, marked
from stacks.variables import variables

OPEN = (
    "switchboard:docker.firewall is off: bots reach each other, what the engine's host listens on and a "
    "cloud's metadata address (169.254.169.254), unless the host's own firewall keeps them from it: "
    "docs/security.md"
)


def describe(environment: Environment) -> Deployment:
    config, docker_config = environment.config, environment.config.docker
    # What only the whole config tells is refused before anything is described.
    whole = settings.dispatcher(config, Known.none(config))
    prefix, tags = f"{environment.project}-{environment.stack}", environment.tags()
    repository = "/".join(filter(None, [docker_config.registry, prefix]))
    if not docker_config.firewall:
        pulumi.log.warn(OPEN)
    on_engine, builds = _providers(config)

    images = Images(
        "images",
        ImagesArgs(
            checkout=environment.checkout,
            agents=config.agents,
            reference=lambda name, mark: f"{repository}-{name}:{mark}",
            pushed=bool(docker_config.registry),
            base=docker_config.base,
            vad=docker_config.vad,
            torch_index=docker_config.torch_index,
            media=docker_config.media,
            compression=docker_config.compression,
            models=bool(docker_config.models),
        ),
        opts=pulumi.ResourceOptions(providers=[builds]),
    )
    networks = Networks(
        "networks",
        NetworksArgs(prefix=prefix, edge=bool(docker_config.domain), tags=tags),
        opts=pulumi.ResourceOptions(providers=[on_engine]),
    )
    firewall = _firewall(config, prefix, images, tags, on_engine) if docker_config.firewall else None
    # Bots are started while there are rules, and end before the rules go.
    kept = [firewall.rules] if firewall is not None else []
    # A network with a container in it cannot be deleted: they go first.
    machines = Machines(
        "machines",
        host=docker_config.host,
        deployment=prefix,
        opts=pulumi.ResourceOptions(depends_on=[networks.machines, *kept]),
    )
    page_key = None if config.keys else PageKey("page-key")
    turn_secret = SharedSecret("turn-secret") if docker_config.turn else None

    known = replace(Known.none(config), deployment=prefix)
    references, repositories = settings.allowed_images(config, images.repositories)
    allowed = AllowedImages("allowed-images", images=references, repositories=repositories)
    network = networks.machines.name
    page_keys = {f"{ENVIRONMENT_PREFIX}KEYS": {"page_key_hash": page_key.hash}} if page_key else {}
    proxy = EngineProxy(
        "engine-proxy-container",
        EngineProxyArgs(
            container_name=f"{prefix}-engine-proxy",
            image=images.dispatcher,
            environment=variables(
                lambda known: settings.proxy(config, known).to_environment(),
                known,
                {
                    f"{PROXY_PREFIX}NETWORK": {"network": network},
                    f"{PROXY_PREFIX}IMAGES": {"images": allowed.images},
                    f"{PROXY_PREFIX}REPOSITORIES": {"repositories": allowed.repositories},
                },
            ),
            socket=docker_config.socket,
            network=networks.control,
            tags=tags,
            firewall=firewall.mount if firewall is not None else None,
        ),
        opts=pulumi.ResourceOptions(providers=[on_engine], depends_on=[*images.built, *kept]),
    )
    outside = {
        **_from_outside(config),
        **daily.secret_variables(config),
        **ice.secret_variables(config, whole),
    }
    secrets: dict[str, pulumi.Input[str]] = {
        name: pulumi.Output.secret(value) for name, value in outside.items()
    }
    if turn_secret is not None:
        secrets[f"{ENVIRONMENT_PREFIX}TURN_SECRET"] = turn_secret.value
    served = [networks.control, networks.machines, *filter(None, [networks.edge])]

    def kept_volume(logical_name: str, name: str, formerly_in: str) -> docker.Volume:
        # A child of nothing that has dependencies: a down that keeps it would keep those, too.
        formerly = environment.child_urn(formerly_in, DOCKER_VOLUME, logical_name)
        within = pulumi.ResourceOptions(provider=on_engine)
        opts = pulumi.ResourceOptions.merge(marked(config.throwaway, formerly), within)
        return volume(logical_name, name, tags, opts)

    store = kept_volume(STORE, f"{prefix}-store", "switchboard:docker:Dispatcher")
    dispatcher = Dispatcher(
        "dispatcher-container",
        DispatcherArgs(
            container_name=f"{prefix}-dispatcher",
            image=images.dispatcher,
            environment={
                **variables(
                    lambda known: settings.dispatcher(config, known).to_environment(),
                    known,
                    {
                        f"{ENVIRONMENT_PREFIX}PLACEMENTS": {"network": network},
                        f"{ENVIRONMENT_PREFIX}MACHINE_NETWORKS": {"machine_networks": networks.of_machines},
                        **page_keys,
                    },
                ),
                **secrets,
            },
            outside={**daily.not_set_here(config), f"{TRACING_PREFIX}*": ""},
            networks=served,
            store=store,
            address="" if docker_config.domain else docker_config.address,
            port=config.port,
            tags=tags,
        ),
        opts=pulumi.ResourceOptions(
            providers=[on_engine], depends_on=[*images.built, machines, proxy.container]
        ),
    )
    own = [dispatcher.container, proxy.container]
    if firewall is not None:
        own.append(firewall.container)
    if networks.edge is not None:
        edge = Edge(
            "edge",
            EdgeArgs(
                prefix=prefix,
                image=docker_config.caddy_image,
                domain=docker_config.domain,
                network=networks.edge,
                certificates=kept_volume(CERTIFICATES, f"{prefix}-caddy-data", "switchboard:docker:Edge"),
                tags=tags,
            ),
            opts=pulumi.ResourceOptions(providers=[on_engine], depends_on=[dispatcher.container]),
        )
        own.append(edge.container)
    if turn_secret is not None:
        turn = Turn(
            "turn-server",
            TurnArgs(
                prefix=prefix,
                image=docker_config.turn_image,
                realm=docker_config.domain or docker_config.turn_address,
                address=docker_config.turn_address,
                ports=docker_config.turn_ports,
                secret=turn_secret.value,
                network=networks.machines,
                tags=tags,
            ),
            opts=pulumi.ResourceOptions(providers=[on_engine]),
        )
        own.append(turn.container)
    Rollout(
        "rollout",
        host=docker_config.host,
        container=dispatcher.container.name,
        images=pulumi.Output.all(**images.agents).apply(lambda found: settings.table(config, found)),
        containers=[container.id for container in own],
        pulled=bool(docker_config.registry) or any(agent.image for agent in config.agents.values()),
        opts=pulumi.ResourceOptions(depends_on=images.built),
    )
    return Deployment(
        url=_url(config, page_key),
        log=dispatcher.container.name.apply(lambda name: f"docker --host {docker_config.host} logs {name}"),
        data=store.name.apply(lambda name: f"volume {name}"),
        bots=[prefix],
    )


def _firewall(
    config: StackConfig, prefix: str, images: Images, tags: Mapping[str, str], on_engine: docker.Provider
) -> Firewall:
    return Firewall(
        "firewall-container",
        FirewallArgs(
            prefix=prefix,
            host=config.docker.host,
            image=images.dispatcher,
            reached=reached(config.docker),
            tags=tags,
        ),
        opts=pulumi.ResourceOptions(providers=[on_engine], depends_on=images.built),
    )


def _providers(config: StackConfig) -> tuple[docker.Provider, docker_build.Provider]:
    """Make the providers of the engine that the config names, whatever the caller's DOCKER_HOST says."""
    registry = config.docker.registry.partition("/")[0]
    on_engine = docker.Provider(
        "engine",
        host=config.docker.host,
        # The user's own login (`docker login`), if there is a registry to pull from.
        registry_auth=[docker.ProviderRegistryAuthArgs(address=registry)] if registry else None,
    )
    return on_engine, docker_build.Provider("builds", host=config.docker.host)


def _from_outside(config: StackConfig) -> dict[str, str]:
    """Return what bots and traces need of the environment of whoever runs the engine."""
    wanted = {name for agent in config.agents.values() for name in agent.env}
    given = {name for name in os.environ if name in wanted or name.startswith(TRACING_PREFIX)}
    return {name: os.environ[name] for name in sorted(given)}


def _url(config: StackConfig, page_key: PageKey | None) -> pulumi.Input[str]:
    """The voice page. Of a stack without keys of its own, with the page's, which is why it is a secret."""
    url = settings.public_url(config)
    if url is None:
        # It listens on all addresses, and what its host is called, the user knows best.
        host = urlsplit(config.docker.host).hostname or "127.0.0.1"
        url = f"http://{host}:{config.port}"
    return url if page_key is None else page_key.key.apply(lambda key: f"{url}/#key={key}")
