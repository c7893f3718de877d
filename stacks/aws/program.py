"""The host of an `aws` stack: the dispatcher's components, and what each is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws
from pydantic import SecretStr

from dispatcher.settings import ENVIRONMENT_PREFIX, IceServer, Settings
from stacks import daily, ice, phones, webhooks
from stacks.aws import names
from stacks.aws.alarms import Alarms, AlarmsArgs
from stacks.aws.config import AwsConfig, AwsKeys
from stacks.aws.database import Database, DatabaseArgs
from stacks.aws.dispatcher import Dispatcher, DispatcherArgs
from stacks.aws.events import EVENTS_VARIABLE
from stacks.aws.front import PORT, Front, FrontArgs
from stacks.aws.images import image_names, images
from stacks.aws.network import Network
from stacks.aws.placement import AwsSite, network_args, profile, provider
from stacks.aws.registry import Registry, RegistryArgs
from stacks.core_config import CoreConfig
from stacks.deployment import Deployment, Environment, PlacedBots, PlannedBots, Site
from stacks.shared.environment import given, tracing_names
from stacks.shared.secrets import SharedSecret
from stacks.shared.settings import (
    Placements,
    agents_at,
    agents_in_images,
    logs_elsewhere,
    made_placements,
    settings_of,
)
from stacks.shared.settings import secret_variables as secrets_of_placements
from stacks.shared.slugs import slugs
from stacks.shared.variables import variables

DATA_DIR = Path("/tmp/switchboard")  # noqa: S108 - in the task's own file system; the store is a PostgreSQL

NO_DATABASE = "postgresql://switchboard:not-made-yet@not-made-yet:5432/switchboard"

REACHED_BY = "with switchboard:aws.domain, its public name"


@dataclass(frozen=True)
class Known:
    """Values that are not in the config, but made by the stack."""

    placements: Placements
    url: str
    database_url: str
    signing_secret: str

    @classmethod
    def none(cls, config: CoreConfig, planned: Sequence[PlannedBots]) -> Known:
        """Stand-ins, for looking at the config before anything is made."""
        given_url = config.database_url.get_secret_value()
        domain = AwsKeys.of(config).aws.domain
        return cls(
            Placements.of(config, planned),
            f"https://{domain}" if domain else names.NO_URL,
            given_url or NO_DATABASE,
            "not known yet, but long enough for the check",
        )


def settings(config: CoreConfig, known: Known) -> Settings:
    """Return the dispatcher's settings, with those that are secret. Raises ConfigError."""
    stun = AwsKeys.of(config).aws.stun
    optional: dict[str, Any] = {"ice_servers": (IceServer(urls=stun),)} if stun else {}
    return settings_of(
        config,
        known.placements,
        # All of its task's addresses; its security group lets the load balancer in, and nobody else.
        host="0.0.0.0",  # noqa: S104
        port=PORT,
        data_dir=DATA_DIR,
        public_url=known.url,
        # Machines are elsewhere: without it they would be told this task's own loopback address.
        machine_url=known.url,
        agents=agents_in_images(config),
        secrets=(SecretStr(known.signing_secret),),
        database_url=known.database_url,
        **optional,
    )


URL_VARIABLES = (f"{ENVIRONMENT_PREFIX}PUBLIC_URL", f"{ENVIRONMENT_PREFIX}MACHINE_URL")
DATABASE_VARIABLE = f"{ENVIRONMENT_PREFIX}DATABASE_URL"
SECRETS_VARIABLE = f"{ENVIRONMENT_PREFIX}SECRETS"


def secret_variables(made: Settings) -> dict[str, str]:
    """Return the dispatcher's secret variables that are this host's own."""
    return {
        DATABASE_VARIABLE: str(made.database_url),
        SECRETS_VARIABLE: json.dumps([secret.get_secret_value() for secret in made.secrets]),
    }


@dataclass(frozen=True, kw_only=True)
class PreparedSite(AwsSite):
    """The host's resources that only its own dispatcher needs."""

    front: Front
    dispatcher: pulumi.Output[str]
    """Reference of the dispatcher's image."""


class AwsHost:
    """Ability of the cloud `aws` to run a dispatcher."""

    def site(self, environment: Environment) -> Site:
        names.prefix(environment)
        domain = AwsKeys.of(environment.config).aws.domain
        return Site(names.CLOUD, f"https://{domain}" if domain else None, REACHED_BY)

    def check(self, environment: Environment, planned: Sequence[PlannedBots]) -> None:
        settings(environment.config, Known.none(environment.config, planned))

    def prepare(self, environment: Environment, planned: Sequence[PlannedBots]) -> Site:
        config, keys = environment.config, AwsKeys.of(environment.config).aws
        site, called, tags = self.site(environment), names.prefix(environment), environment.tags()
        at_aws = provider("aws", keys.region)
        opts = pulumi.ResourceOptions(provider=at_aws)
        network = Network("network", network_args(environment, names.CLOUD), opts)
        own = any(one.name == names.CLOUD for one in planned)
        agents = agents_at(config, names.CLOUD).values() if own else ()
        parents = {of.bot.parent for of in agents if of.image is None}
        bots = image_names(list(slugs(parents, environment.checkout).values()))
        registry = Registry(
            "registry", RegistryArgs(called, ["dispatcher", *bots], cache=True, tags=tags), opts
        )
        building = images("images", environment.checkout, registry, at_aws, keys, base=keys.base)
        front = Front(
            "front",
            FrontArgs(
                prefix=called,
                vpc_id=network.vpc_id,
                subnet_ids=network.subnet_ids,
                domain=keys.domain,
                zone_id=keys.zone_id,
                certificate_arn=keys.certificate_arn,
                tags=tags,
            ),
            opts,
        )
        return PreparedSite(
            site.cloud,
            site.machine_url,
            site.reached_by,
            region=keys.region,
            provider=at_aws,
            network=network,
            registry=registry,
            images=building,
            url=front.url,
            events_key=SharedSecret("events-key").value,
            front=front,
            dispatcher=building.dispatcher({"PACKAGES": "dispatcher-aws"}),
        )

    def deploy(self, environment: Environment, site: Site, placed: Sequence[PlacedBots]) -> Deployment:
        return _deploy(environment, PreparedSite.of(site), placed)


def _deploy(environment: Environment, site: PreparedSite, placed: Sequence[PlacedBots]) -> Deployment:
    config, keys = environment.config, AwsKeys.of(environment.config).aws
    called, tags = names.prefix(environment), environment.tags()
    opts = pulumi.ResourceOptions(provider=site.provider)
    known_now = Known.none(config, [one.planned for one in placed])
    whole = settings(config, known_now)
    signing = SharedSecret("signing-secret")
    at_aws = [one for one in placed if one.planned.cloud == names.CLOUD]
    group = aws.ec2.SecurityGroup(
        "dispatcher-group",
        description="Switchboard: the dispatcher",
        vpc_id=site.network.vpc_id,
        tags=tags,
        opts=opts,
    )
    database_url: pulumi.Input[str] = known_now.database_url
    database = None
    if not config.database_url.get_secret_value():
        database = _database(environment, keys, site, group, opts)
        database_url = database.url
    made_url = {} if keys.domain else {one: {"url": site.front.url} for one in URL_VARIABLES}
    secrets: Mapping[str, pulumi.Input[str]] = variables(
        lambda known: secret_variables(settings(config, known)),
        known_now,
        {
            SECRETS_VARIABLE: {"signing_secret": signing.value},
            DATABASE_VARIABLE: {"database_url": database_url},
        },
    )
    service = Dispatcher(
        "dispatcher",
        DispatcherArgs(
            prefix=called,
            region=keys.region,
            vpc_id=site.network.vpc_id,
            subnet_ids=site.network.subnet_ids,
            group=group,
            front=site.front.group.id,
            targets=site.front.targets.arn,
            number=keys.dispatchers,
            cpu_units=int(keys.dispatcher_cpu * 1024),
            memory_mb=keys.dispatcher_memory_mb,
            architecture=keys.fargate_architecture,
            image=site.dispatcher,
            repository=site.registry.repositories["dispatcher"].arn,
            environment=variables(
                lambda known: settings(config, known).to_environment(),
                known_now,
                {**made_url, **made_placements(known_now.placements, placed)},
            ),
            variables={
                **({EVENTS_VARIABLE: site.events_key} if at_aws else {}),
                **secrets_of_placements(placed),
                **secrets,
                **daily.secret_variables(config),
                **ice.secret_variables(config, whole),
                **phones.secret_variables(config),
                **webhooks.secret_variables(config),
                # Where traces go, with the key for it.
                **given(tracing_names()),
            },
            statements=[one for of in at_aws for one in of.permissions],
            log_days=keys.log_days,
            secret_store=keys.secrets,
            # At the end the dispatcher goes first: nobody starts bots any more when theirs are ended.
            needed=[*site.front.listening, *(one for of in placed for one in (*of.needed, *of.swept))],
            tags=tags,
        ),
        opts,
    )
    if keys.alarms:
        Alarms(
            "alarms",
            AlarmsArgs(
                prefix=called,
                region=keys.region,
                balancer=site.front.balancer.arn_suffix,
                targets=site.front.targets.arn_suffix,
                cluster=service.cluster.name,
                service=service.service.name,
                database=None if database is None else database.instance.identifier,
                log_group=service.log_group.name,
                log_format=config.log_format,
                email=keys.alarm_email,
                budget_usd=keys.budget_usd,
                tags=tags,
            ),
            opts,
        )
    by = f" --profile {profile()}" if profile() else ""
    log = service.log_group.name.apply(lambda name: f"aws logs tail {name} --region {keys.region}{by}")
    return Deployment(
        url=site.front.url,
        log=log,
        data="the database of databaseUrl" if config.database_url.get_secret_value() else f"RDS {called}",
        bots=[name for one in at_aws for name in one.logs],
        elsewhere=logs_elsewhere(placed, names.CLOUD),
        records=site.front.records,
    )


def _database(
    environment: Environment,
    keys: AwsConfig,
    site: PreparedSite,
    group: aws.ec2.SecurityGroup,
    opts: pulumi.ResourceOptions,
) -> Database:
    return Database(
        "database",
        DatabaseArgs(
            prefix=names.prefix(environment),
            vpc_id=site.network.vpc_id,
            subnet_ids=site.network.subnet_ids,
            clients=group.id,
            instance=keys.database,
            multi_zone=keys.database_multi_zone,
            backup_days=keys.backup_days,
            password=SharedSecret("database-password").value,
            throwaway=environment.config.throwaway,
            tags=environment.tags(),
            provider=site.provider,
        ),
        opts,
    )
