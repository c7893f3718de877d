"""The program of a `docker` stack: which components it has, and what each is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import pulumi
import pulumi_docker as docker
import pulumi_docker_build as docker_build

from dispatcher.engine_proxy.settings import PROXY_PREFIX
from dispatcher.settings import ENVIRONMENT_PREFIX
from stacks import daily, ice, phones, webhooks
from stacks.core_config import CoreConfig
from stacks.deployment import Deployment, Environment, PlacedBots, PlannedBots, Site
from stacks.docker import VOLUME, settings
from stacks.docker.allowed import AllowedImages
from stacks.docker.config import DockerConfig, DockerKeys
from stacks.docker.containers import volume
from stacks.docker.dispatcher import Dispatcher, DispatcherArgs
from stacks.docker.edge import Edge, EdgeArgs
from stacks.docker.engine import EngineProxy, EngineProxyArgs
from stacks.docker.network import Networks, NetworksArgs
from stacks.docker.placement import NOT_MADE, DockerBots, DockerSite
from stacks.docker.rollout import Rollout
from stacks.docker.settings import Known, ProxyKnown
from stacks.docker.turn import Turn, TurnArgs
from stacks.shared.environment import given, tracing_names
from stacks.shared.environment import outside as from_outside
from stacks.shared.images import Images, ImagesArgs
from stacks.shared.secrets import PageKey, SharedSecret
from stacks.shared.settings import Placements, logs_elsewhere, made_placements, secret_variables
from stacks.shared.variables import variables
from stacks.stateful import CERTIFICATES, STORE, marked

OPEN = (
    "switchboard:docker.firewall is off: bots reach each other, what the engine's host listens on and a "
    "cloud's metadata address (169.254.169.254), unless the host's own firewall keeps them from it: "
    "docs/security.md"
)


class DockerHost:
    """Ability of the cloud `docker` to run a dispatcher."""

    def site(self, environment: Environment) -> Site:
        domain = DockerKeys.of(environment.config).docker.domain
        return Site(
            "docker",
            f"https://{domain}" if domain else None,
            "switchboard:docker.domain, a name that leads to the engine's host",
            has_image_table=True,
        )

    def check(self, environment: Environment, planned: Sequence[PlannedBots]) -> None:
        config = environment.config
        settings.dispatcher(config, Known.none(config, Placements.of(config, planned)))

    def prepare(self, environment: Environment, planned: Sequence[PlannedBots]) -> Site:
        keys = DockerKeys.of(environment.config).docker
        repository = "/".join(filter(None, [keys.registry, _prefix(environment)]))
        if not keys.firewall:
            pulumi.log.warn(OPEN)
        on_engine, builds = _providers(keys)
        images = Images(
            "images",
            ImagesArgs(
                checkout=environment.checkout,
                reference=lambda name, mark: f"{repository}-{name}:{mark}",
                pushed=bool(keys.registry),
                base=keys.base,
                compression=keys.compression,
            ),
            opts=pulumi.ResourceOptions(providers=[builds]),
        )
        networks = Networks(
            "networks",
            NetworksArgs(prefix=_prefix(environment), edge=bool(keys.domain), tags=environment.tags()),
            opts=pulumi.ResourceOptions(providers=[on_engine]),
        )
        site = self.site(environment)
        return DockerSite(
            site.cloud,
            site.machine_url,
            site.reached_by,
            site.has_image_table,
            images=images,
            networks=networks,
            dispatcher=images.dispatcher(),
            on_engine=on_engine,
        )

    def deploy(self, environment: Environment, site: Site, placed: Sequence[PlacedBots]) -> Deployment:
        return _deploy(environment, DockerSite.of(site), placed)


def _prefix(environment: Environment) -> str:
    return f"{environment.project}-{environment.stack}"


def _deploy(environment: Environment, site: DockerSite, placed: Sequence[PlacedBots]) -> Deployment:
    config, keys, tags = environment.config, DockerKeys.of(environment.config).docker, environment.tags()
    prefix, on_engine, networks, images = _prefix(environment), site.on_engine, site.networks, site.images
    placements = settings.in_environment(Placements.of(config, [one.planned for one in placed]))
    known = Known.none(config, placements)
    whole = settings.dispatcher(config, known)
    page_key = None if config.keys else PageKey("page-key")
    turn_secret = SharedSecret("turn-secret") if keys.turn else None
    at_engine = next((one for one in placed if isinstance(one, DockerBots)), None)
    proxy = _engine_proxy(environment, site, at_engine) if at_engine is not None else None
    page_keys = {f"{ENVIRONMENT_PREFIX}KEYS": {"page_key_hash": page_key.hash}} if page_key else {}
    outside = {
        **given(tracing_names()),
        **daily.secret_variables(config),
        **ice.secret_variables(config, whole),
        **phones.secret_variables(config),
        **webhooks.secret_variables(config),
    }
    secrets: dict[str, pulumi.Input[str]] = {
        **secret_variables(placed),
        **{name: pulumi.Output.secret(value) for name, value in outside.items()},
    }
    if turn_secret is not None:
        secrets[f"{ENVIRONMENT_PREFIX}TURN_SECRET"] = turn_secret.value
    served = [networks.control, networks.machines, *filter(None, [networks.edge])]

    def kept_volume(logical_name: str, name: str, formerly_in: str) -> docker.Volume:
        # A child of nothing that has dependencies: a down that keeps it would keep those, too.
        formerly = environment.child_urn(formerly_in, VOLUME, logical_name)
        within = pulumi.ResourceOptions(provider=on_engine)
        opts = pulumi.ResourceOptions.merge(marked(config.throwaway, formerly), within)
        return volume(logical_name, name, tags, opts)

    store = kept_volume(STORE, f"{prefix}-store", "switchboard:docker:Dispatcher")
    before = [one for of in placed for one in (*of.needed, *of.swept)]
    dispatcher = Dispatcher(
        "dispatcher-container",
        DispatcherArgs(
            container_name=f"{prefix}-dispatcher",
            image=site.dispatcher,
            environment={
                **variables(
                    lambda known: settings.dispatcher(config, known).to_environment(),
                    known,
                    {
                        **made_placements(known.placements, placed),
                        f"{ENVIRONMENT_PREFIX}MACHINE_NETWORKS": {"machine_networks": networks.of_machines},
                        **page_keys,
                    },
                ),
                **dict(sorted(secrets.items())),
            },
            outside=from_outside(config),
            networks=served,
            store=store,
            address="" if keys.domain else keys.address,
            port=config.port,
            tags=tags,
        ),
        opts=pulumi.ResourceOptions(
            providers=[on_engine],
            depends_on=[*images.built, *before, *([proxy.container] if proxy is not None else [])],
        ),
    )
    own = [dispatcher.container, *([proxy.container] if proxy is not None else [])]
    if at_engine is not None and at_engine.firewall is not None:
        own.append(at_engine.firewall.container)
    if networks.edge is not None:
        edge = Edge(
            "edge",
            EdgeArgs(
                prefix=prefix,
                image=keys.caddy_image,
                domain=keys.domain,
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
                image=keys.turn_image,
                realm=keys.domain or keys.turn_address,
                address=keys.turn_address,
                ports=keys.turn_ports,
                secret=turn_secret.value,
                network=networks.machines,
                tags=tags,
            ),
            opts=pulumi.ResourceOptions(providers=[on_engine]),
        )
        own.append(turn.container)
    references = at_engine.built.agents if at_engine is not None else {}
    images_there: pulumi.Output[Any] = pulumi.Output.from_input(
        {"engine": references, "elsewhere": _elsewhere(placed)}
    )
    Rollout(
        "rollout",
        host=keys.host,
        container=dispatcher.container.name,
        images=images_there.apply(lambda found: settings.table(config, found["engine"], found["elsewhere"])),
        containers=[container.id for container in own],
        pulled=bool(keys.registry) or any(agent.image for agent in config.agents.values()),
        opts=pulumi.ResourceOptions(depends_on=[*images.built, *(one for of in placed for one in of.needed)]),
    )
    return Deployment(
        url=_url(config, page_key),
        log=dispatcher.container.name.apply(lambda name: f"docker --host {keys.host} logs {name}"),
        data=store.name.apply(lambda name: f"volume {name}"),
        bots=[name for one in placed if isinstance(one, DockerBots) for name in one.logs],
        elsewhere=logs_elsewhere(placed, "docker"),
    )


def _elsewhere(placed: Sequence[PlacedBots]) -> dict[str, dict[str, pulumi.Input[str]]]:
    """Return agent → placement → the image there, for placements that take it from the table."""
    found: dict[str, dict[str, pulumi.Input[str]]] = {}
    for one in placed:
        for name, of in one.planned.settings.items():
            # With stand-ins: which agents have an image of this placement's own.
            for agent in of.images if of.takes_images_file else ():
                found.setdefault(agent, {})[name] = one.images[agent]
    return found


def _engine_proxy(environment: Environment, site: DockerSite, bots: DockerBots) -> EngineProxy:
    config, prefix = environment.config, _prefix(environment)
    references, repositories = settings.allowed_images(bots.agents, bots.built.repositories)
    allowed = AllowedImages("allowed-images", images=references, repositories=repositories)
    return EngineProxy(
        "engine-proxy-container",
        EngineProxyArgs(
            container_name=f"{prefix}-engine-proxy",
            image=site.dispatcher,
            environment=variables(
                lambda known: settings.proxy(config, bots.agents, bots.keys.models, known).to_environment(),
                ProxyKnown(prefix, NOT_MADE, (), ()),
                {
                    f"{PROXY_PREFIX}NETWORK": {"network": site.networks.machines.name},
                    f"{PROXY_PREFIX}IMAGES": {"images": allowed.images},
                    f"{PROXY_PREFIX}REPOSITORIES": {"repositories": allowed.repositories},
                },
            ),
            socket=DockerKeys.of(config).docker.socket,
            network=site.networks.control,
            tags=environment.tags(),
            firewall=bots.firewall.mount if bots.firewall is not None else None,
        ),
        opts=pulumi.ResourceOptions(
            providers=[site.on_engine], depends_on=[*site.images.built, *bots.needed]
        ),
    )


def _providers(keys: DockerConfig) -> tuple[docker.Provider, docker_build.Provider]:
    """Make the providers of the engine that the config names, whatever the caller's DOCKER_HOST says."""
    registry = keys.registry.partition("/")[0]
    on_engine = docker.Provider(
        "engine",
        host=keys.host,
        # The user's own login (`docker login`), if there is a registry to pull from.
        registry_auth=[docker.ProviderRegistryAuthArgs(address=registry)] if registry else None,
    )
    return on_engine, docker_build.Provider("builds", host=keys.host)


def _url(config: CoreConfig, page_key: PageKey | None) -> pulumi.Input[str]:
    """The voice page. Of a stack without keys of its own, with the page's, which is why it is a secret."""
    url = settings.public_url(config)
    if url is None:
        # It listens on all addresses, and what its host is called, the user knows best.
        host = urlsplit(DockerKeys.of(config).docker.host).hostname or "127.0.0.1"
        url = f"http://{host}:{config.port}"
    return url if page_key is None else page_key.key.apply(lambda key: f"{url}/#key={key}")
