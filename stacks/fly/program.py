"""The program of a `fly` stack: which components it has, and what each is told."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable

import pulumi
import pulumi_docker_build as docker_build

from dispatcher.settings import IMAGES_VARIABLE
from stacks import daily, ice
from stacks.deployment import Deployment, Environment
from stacks.docker.images import Images, ImagesArgs
from stacks.docker.secret import SharedSecret
from stacks.fly import offers, settings
from stacks.fly.agents import AgentApps, AgentAppsArgs
from stacks.fly.dispatcher import Dispatcher, DispatcherApp, DispatcherAppArgs, DispatcherArgs
from stacks.fly.settings import Known
from stacks.fly.tokens import bare, period_of
from stacks.fly.volumes import Volume
from stacks.local.dispatcher import TRACING_PREFIX
from stacks.stateful import FLY_VOLUME, STORE, marked
from stacks.variables import variables

REGISTRY = "registry.fly.io"
REGISTRY_USER = "x"
"""Fly's registry looks at the password alone, which is a token."""


def describe(environment: Environment) -> Deployment:
    config, fly = environment.config, environment.config.fly
    called = settings.names(config, environment.project, environment.stack)
    # What only the whole config tells is refused before anything is described.
    known_now = Known.none(config)
    whole = settings.dispatcher(config, called, known_now)
    offers.check(config)
    lifetimes = {
        "token_days": fly.token_days,
        "token_period": period_of(datetime.datetime.now(datetime.UTC).date(), fly.token_days),
    }
    on_volume = not config.database_url.get_secret_value()
    front = DispatcherApp(
        "front",
        DispatcherAppArgs(
            name=called.dispatcher,
            org=fly.org,
            network=fly.network or called.dispatcher,
            domain=fly.domain,
            adopt=fly.adopt,
            holds_data=on_volume and not config.throwaway,
            **lifetimes,
        ),
    )
    agents = {
        name: AgentApps(
            f"{name}-apps",
            AgentAppsArgs(
                agent=name,
                names=[called.bots(name, shard) for shard in range(fly.apps)],
                org=fly.org,
                variables=agent.env,
                environment=_given(agent.env),
                adopt=fly.adopt,
                **lifetimes,
            ),
        )
        for name, agent in config.agents.items()
    }
    password = front.push_token.apply(bare)
    images = Images(
        "images",
        ImagesArgs(
            checkout=environment.checkout,
            agents=config.agents,
            reference=lambda name, mark: f"{REGISTRY}/{called.dispatcher}:{name}-{mark}",
            pushed=True,
            base=fly.base,
            vad=fly.vad,
            torch_index=fly.torch_index,
            media=fly.media,
            compression=fly.compression,
            models=False,
            logins=[docker_build.RegistryArgs(address=REGISTRY, username=REGISTRY_USER, password=password)],
            platforms=[docker_build.Platform.LINUX_AMD64],
            dispatcher_arguments={"RUN_AS": "0:0"} if on_volume else {},
        ),
    )
    signing = SharedSecret("signing-secret")
    tokens = {app: token for apps in agents.values() for app, token in apps.tokens.items()}
    secrets = variables(
        lambda known: settings.secret_variables(settings.dispatcher(config, called, known)),
        known_now,
        {
            settings.DISPATCHER_TOKEN_VARIABLE: {"token": pulumi.Output.json_dumps(tokens, sort_keys=True)},
            settings.SECRETS_VARIABLE: {"signing_secret": signing.value},
        },
    )
    # A child of nothing that has dependencies: a down that keeps it would keep those, too.
    store = None
    if on_volume:
        store = Volume(
            STORE,
            app=front.app.name,
            name="store",
            region=fly.regions[0],
            size_gb=fly.volume_gb,
            adopt=fly.adopt.get(STORE),
            opts=marked(
                config.throwaway, environment.child_urn("switchboard:fly:Dispatcher", FLY_VOLUME, STORE)
            ),
        )
    Dispatcher(
        "service",
        DispatcherArgs(
            app=front.app,
            app_name=called.dispatcher,
            region=fly.regions[0],
            number=fly.dispatchers,
            image=images.dispatcher,
            environment=variables(
                lambda known: settings.dispatcher(config, called, known).to_environment(),
                known_now,
                {IMAGES_VARIABLE: {"images": pulumi.Output.all(**images.agents)}},
            ),
            secrets={
                **secrets,
                **daily.secret_variables(config),
                **ice.secret_variables(config, whole),
                # Where traces go, with the key for it.
                **_given([name for name in os.environ if name.startswith(TRACING_PREFIX)]),
            },
            outside={**daily.not_set_here(config), f"{TRACING_PREFIX}*": ""},
            cpu_kind=fly.dispatcher_cpu_kind,
            cpus=fly.dispatcher_cpus,
            memory_mb=fly.dispatcher_memory_mb,
            store=store,
            tags=environment.tags(),
            adopt=fly.adopt,
        ),
        # At the end the dispatcher goes first: nobody starts bots any more when theirs are ended.
        opts=pulumi.ResourceOptions(depends_on=[one for apps in agents.values() for one in apps.swept]),
    )
    return Deployment(
        url=settings.url(config, called),
        log=f"fly logs --app {called.dispatcher}",
        data=f"volume store of {called.dispatcher}" if on_volume else "the database of databaseUrl",
        bots=[called.bots(name, shard) for name in config.agents for shard in range(fly.apps)],
        records=front.records,
    )


def _given(names: Iterable[str]) -> dict[str, str]:
    """The variables that are set where the engine runs."""
    return {name: os.environ[name] for name in sorted(names) if name in os.environ}
