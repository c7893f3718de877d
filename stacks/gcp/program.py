"""The host of a `gcp` stack: the dispatcher's components, and what each is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_gcp as gcp
from pydantic import SecretStr

from dispatcher.settings import ENVIRONMENT_PREFIX, IceServer, Settings
from stacks import daily, ice, phones, webhooks
from stacks.core_config import CoreConfig
from stacks.deployment import Deployment, Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.gcp import apis, names
from stacks.gcp.alarms import Alarms, AlarmsArgs
from stacks.gcp.apis import Apis
from stacks.gcp.config import PROJECT_WORDS, GcpConfig, GcpKeys
from stacks.gcp.database import Database, DatabaseArgs
from stacks.gcp.dispatcher import PORT, Dispatcher, DispatcherArgs
from stacks.gcp.images import images
from stacks.gcp.network import Network
from stacks.gcp.placement import GcpSite, network_args, provider
from stacks.gcp.registry import Registry, RegistryArgs
from stacks.shared.environment import given, tracing_names
from stacks.shared.secrets import SharedSecret
from stacks.shared.settings import (
    Placements,
    agents_in_images,
    logs_elsewhere,
    made_placements,
    settings_of,
)
from stacks.shared.settings import secret_variables as secrets_of_placements
from stacks.shared.variables import variables

DATA_DIR = Path("/tmp/switchboard")  # noqa: S108 - in the instance's memory; the store is a PostgreSQL

NO_DATABASE = "postgresql://switchboard:not-made-yet@not-made-yet:5432/switchboard"

REACHED_BY = "with switchboard:gcp.domain, its public name"

LONGEST_SERVICE = 49
"""Characters of a service's name ("Services", Cloud Run's documentation)."""


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
        domain = GcpKeys.of(config).gcp.domain
        return cls(
            Placements.of(config, planned),
            f"https://{domain}" if domain else names.NO_URL,
            given_url or NO_DATABASE,
            "not known yet, but long enough for the check",
        )


def settings(config: CoreConfig, known: Known) -> Settings:
    """Return the dispatcher's settings, with those that are secret. Raises ConfigError."""
    stun = GcpKeys.of(config).gcp.stun
    optional: dict[str, Any] = {"ice_servers": (IceServer(urls=stun),)} if stun else {}
    return settings_of(
        config,
        known.placements,
        # All of its instance's addresses: Cloud Run lets its own front in, and nobody else.
        host="0.0.0.0",  # noqa: S104
        port=PORT,
        data_dir=DATA_DIR,
        public_url=known.url,
        # Machines are elsewhere: without it they would be told this instance's own loopback address.
        machine_url=known.url,
        agents=agents_in_images(config),
        secrets=(SecretStr(known.signing_secret),),
        database_url=known.database_url,
        # Cloud Run sends an instance nothing more before it tells it to exit, and ends it 10 s later.
        drain_seconds=0,
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
class PreparedSite(GcpSite):
    """The host's resources that only its own dispatcher needs."""

    account: gcp.serviceaccount.Account
    dispatcher: pulumi.Output[str]
    """Reference of the dispatcher's image."""
    url: pulumi.Output[str]
    enabled: Sequence[pulumi.Resource]


class GcpHost:
    """Ability of the cloud `gcp` to run a dispatcher."""

    def site(self, environment: Environment) -> Site:
        called = names.prefix(environment)
        if len(called) > LONGEST_SERVICE - len("-dispatcher"):
            raise ConfigError(
                f"the stack's name: {called!r}, of project and stack, is too long for a service of Cloud "
                f"Run; allowed: at most {LONGEST_SERVICE - len('-dispatcher')} characters"
            )
        keys = GcpKeys.of(environment.config).gcp
        if not keys.project:
            raise ConfigError(f"switchboard:gcp.project: is missing; allowed: {PROJECT_WORDS}")
        return Site(names.CLOUD, f"https://{keys.domain}" if keys.domain else None, REACHED_BY)

    def check(self, environment: Environment, planned: Sequence[PlannedBots]) -> None:
        settings(environment.config, Known.none(environment.config, planned))

    def prepare(self, environment: Environment, planned: Sequence[PlannedBots]) -> Site:
        keys, site = GcpKeys.of(environment.config).gcp, self.site(environment)
        called, labels = names.prefix(environment), environment.tags()
        at_google = provider("gcp", keys, labels)
        opts = pulumi.ResourceOptions(provider=at_google)
        own = any(one.name == names.CLOUD for one in planned)
        wanted = [*apis.OF_DISPATCHER, *(apis.OF_BOTS if own else ())]
        enabled = Apis("apis", keys.project, wanted, opts).enabled
        after = pulumi.ResourceOptions(provider=at_google, depends_on=enabled)
        registry = Registry("registry", RegistryArgs(called, keys.project, keys.region, labels), after)
        building = images("images", environment.checkout, registry, at_google, keys, base=keys.base)
        account = gcp.serviceaccount.Account(
            "dispatcher-account",
            project=keys.project,
            account_id=names.account(called, "dispatcher"),
            display_name=f"Switchboard {called}: the dispatcher",
            opts=after,
        )
        return PreparedSite(
            site.cloud,
            site.machine_url,
            site.reached_by,
            provider=at_google,
            # A stack without bots of its own here has no network.
            network=Network("network", network_args(environment, names.CLOUD), after) if own else None,
            registry=registry,
            images=building,
            account=account,
            dispatcher=building.dispatcher({"PACKAGES": "dispatcher-gcp"}),
            url=_url(keys, _service(called), at_google),
            enabled=enabled,
        )

    def deploy(self, environment: Environment, site: Site, placed: Sequence[PlacedBots]) -> Deployment:
        return _deploy(environment, PreparedSite.of(site), placed)


def _service(prefix: str) -> str:
    return f"{prefix}-dispatcher"


def _url(keys: GcpConfig, service: str, at_google: gcp.Provider) -> pulumi.Output[str]:
    """Return the dispatcher's URL, which is known before its service is there."""
    if keys.domain:
        return pulumi.Output.from_input(f"https://{keys.domain}")
    project = gcp.organizations.get_project_output(
        project_id=keys.project, opts=pulumi.InvokeOutputOptions(provider=at_google)
    )
    return pulumi.Output.concat(f"https://{service}-", project.number, f".{keys.region}.run.app")


def _deploy(environment: Environment, site: PreparedSite, placed: Sequence[PlacedBots]) -> Deployment:
    config, keys = environment.config, GcpKeys.of(environment.config).gcp
    called, labels = names.prefix(environment), environment.tags()
    opts = pulumi.ResourceOptions(provider=site.provider)
    known_now = Known.none(config, [one.planned for one in placed])
    whole = settings(config, known_now)
    signing = SharedSecret("signing-secret")
    database_url: pulumi.Input[str] = known_now.database_url
    database = None
    if not config.database_url.get_secret_value():
        database = _database(environment, keys, site, opts)
        database_url = database.url
    made_url = {} if keys.domain else {one: {"url": site.url} for one in URL_VARIABLES}
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
            project=keys.project,
            region=keys.region,
            service=_service(called),
            account=site.account,
            number=keys.dispatchers,
            cpu=keys.dispatcher_cpu,
            memory_mb=keys.dispatcher_memory_mb,
            image=site.dispatcher,
            environment=variables(
                lambda known: settings(config, known).to_environment(),
                known_now,
                {**made_url, **made_placements(known_now.placements, placed)},
            ),
            variables={
                **secrets_of_placements(placed),
                **secrets,
                **daily.secret_variables(config),
                **ice.secret_variables(config, whole),
                **phones.secret_variables(config),
                **webhooks.secret_variables(config),
                # Where traces go, with the key for it.
                **given(tracing_names()),
            },
            grants=[one for of in placed if of.planned.cloud == names.CLOUD for one in of.permissions],
            connection=None if database is None else database.instance.connection_name,
            domain=keys.domain,
            # At the end the dispatcher goes first: nobody starts bots any more when theirs are ended.
            needed=[
                *(() if database is None else database.ready),
                *(one for of in placed for one in (*of.needed, *of.swept)),
            ],
            labels=labels,
        ),
        opts,
    )
    if keys.alarms:
        Alarms(
            "alarms",
            AlarmsArgs(
                prefix=called,
                project=keys.project,
                service=_service(called),
                database=None if database is None else database.instance.name,
                email=keys.alarm_email,
                labels=labels,
            ),
            pulumi.ResourceOptions(provider=site.provider, depends_on=list(site.enabled)),
        )
    return Deployment(
        url=site.url,
        log=f"gcloud run services logs read {_service(called)} --project {keys.project} "
        f"--region {keys.region}",
        data="the database of databaseUrl" if database is None else f"Cloud SQL of {called}",
        bots=[name for one in placed if one.planned.cloud == names.CLOUD for name in one.logs],
        elsewhere=logs_elsewhere(placed, names.CLOUD),
        records=service.records,
    )


def _database(
    environment: Environment, keys: GcpConfig, site: PreparedSite, opts: pulumi.ResourceOptions
) -> Database:
    return Database(
        "database",
        DatabaseArgs(
            prefix=names.prefix(environment),
            project=keys.project,
            region=keys.region,
            tier=keys.database,
            multi_zone=keys.database_multi_zone,
            backup_days=keys.backup_days,
            password=SharedSecret("database-password").value,
            throwaway=environment.config.throwaway,
            labels=environment.tags(),
            needed=site.enabled,
            provider=site.provider,
        ),
        opts,
    )
