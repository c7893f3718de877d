"""The host of a `fly` stack: which components its dispatcher has, and what each is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from dispatcher.settings import IMAGES_VARIABLE
from stacks import daily, ice, phones, webhooks
from stacks.deployment import Deployment, Environment, PlacedBots, PlannedBots, Site
from stacks.fly import FLY_VOLUME, settings
from stacks.fly.config import FlyKeys
from stacks.fly.dispatcher import Dispatcher, DispatcherApp, DispatcherAppArgs, DispatcherArgs
from stacks.fly.placement import FlySite, images_args, lifetimes_of
from stacks.fly.settings import Known
from stacks.fly.volumes import Volume
from stacks.shared.environment import given, outside, tracing_names
from stacks.shared.images import Images
from stacks.shared.secrets import SharedSecret
from stacks.shared.settings import logs_elsewhere, made_placements
from stacks.shared.settings import secret_variables as secrets_of_placements
from stacks.shared.variables import variables
from stacks.stateful import STORE, marked


@dataclass(frozen=True, kw_only=True)
class PreparedSite(FlySite):
    """The host's resources that only its own dispatcher needs."""

    front: DispatcherApp
    dispatcher: pulumi.Output[str]
    """Reference of the dispatcher's image."""


class FlyHost:
    """Ability of the cloud `fly` to run a dispatcher."""

    def site(self, environment: Environment) -> Site:
        called = settings.host_names(environment)
        return Site(settings.CLOUD, f"https://{called.host}")

    def check(self, environment: Environment, planned: Sequence[PlannedBots]) -> None:
        config = environment.config
        settings.dispatcher(config, settings.host_names(environment), Known.none(config, planned))

    def prepare(self, environment: Environment, planned: Sequence[PlannedBots]) -> Site:
        config, fly = environment.config, FlyKeys.of(environment.config).fly
        called, site = settings.host_names(environment), self.site(environment)
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
                **lifetimes_of(fly),
            ),
        )
        images = Images("images", images_args(environment, called.dispatcher, front.push_token, fly))
        return PreparedSite(
            site.cloud,
            site.machine_url,
            images=images,
            app=called.dispatcher,
            push_token=front.push_token,
            front=front,
            dispatcher=images.dispatcher({"RUN_AS": "0:0"} if on_volume else {}),
        )

    def deploy(self, environment: Environment, site: Site, placed: Sequence[PlacedBots]) -> Deployment:
        return _deploy(environment, PreparedSite.of(site), placed)


def _deploy(environment: Environment, site: PreparedSite, placed: Sequence[PlacedBots]) -> Deployment:
    config, fly = environment.config, FlyKeys.of(environment.config).fly
    called, front = settings.host_names(environment), site.front
    known_now = Known.none(config, [one.planned for one in placed])
    whole = settings.dispatcher(config, called, known_now)
    on_volume = not config.database_url.get_secret_value()
    signing = SharedSecret("signing-secret")
    secrets = variables(
        lambda known: settings.secret_variables(settings.dispatcher(config, called, known)),
        known_now,
        {settings.SECRETS_VARIABLE: {"signing_secret": signing.value}},
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
    images = next((one.images for one in placed if one.planned.name == settings.CLOUD), None)
    Dispatcher(
        "service",
        DispatcherArgs(
            app=front.app,
            app_name=called.dispatcher,
            region=fly.regions[0],
            number=fly.dispatchers,
            image=site.dispatcher,
            environment=variables(
                lambda known: settings.dispatcher(config, called, known).to_environment(),
                known_now,
                {
                    **({IMAGES_VARIABLE: {"images": pulumi.Output.all(**images)}} if images else {}),
                    **made_placements(known_now.placements, placed),
                },
            ),
            secrets={
                **secrets_of_placements(placed),
                **secrets,
                **daily.secret_variables(config),
                **ice.secret_variables(config, whole),
                **phones.secret_variables(config),
                **webhooks.secret_variables(config),
                # Where traces go, with the key for it.
                **given(tracing_names()),
            },
            outside=outside(config),
            cpu_kind=fly.dispatcher_cpu_kind,
            cpus=fly.dispatcher_cpus,
            memory_mb=fly.dispatcher_memory_mb,
            store=store,
            tags=environment.tags(),
            adopt=fly.adopt,
        ),
        # At the end the dispatcher goes first: nobody starts bots any more when theirs are ended.
        opts=pulumi.ResourceOptions(depends_on=[one for of in placed for one in of.swept]),
    )
    return Deployment(
        url=settings.url(config, called),
        log=f"fly logs --app {called.dispatcher}",
        data=f"volume store of {called.dispatcher}" if on_volume else "the database of databaseUrl",
        bots=[name for one in placed if one.planned.cloud == settings.CLOUD for name in one.logs],
        elsewhere=logs_elsewhere(placed, settings.CLOUD),
        records=front.records,
    )
