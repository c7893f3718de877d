"""The program of a `local` stack: the dispatcher and its bots are processes of this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pulumi
from pydantic import BaseModel

from dispatcher.settings import AgentSettings, Settings
from stacks import daily, ice, phones, webhooks
from stacks.core_config import CoreConfig
from stacks.deployment import Deployment, Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.local import data_dir, server
from stacks.local.bots import Machines
from stacks.local.content import code_hash, secret_fingerprint
from stacks.local.dispatcher import DATA_DIR_VARIABLE, Dispatcher
from stacks.local.environments import with_environments
from stacks.prices import OWN_MACHINE, Price
from stacks.shared import process
from stacks.shared.environment import outside, tracing_names
from stacks.shared.settings import Placements, settings_of

CLOUD = "local"
HOST = "127.0.0.1"
# By the environment, not by how this interpreter was called (python, python3, …): two ways to run the
# same program must describe the same command.
PYTHON = str(Path(sys.prefix) / "bin" / "python")


COMMAND = [PYTHON, "-m", "dispatcher"]


class LocalHost:
    """Ability of the cloud `local` to run a dispatcher."""

    def site(self, environment: Environment) -> Site:
        return Site(CLOUD, None)

    def check(self, environment: Environment, planned: Sequence[PlannedBots]) -> None:
        _settings(environment.config, planned)
        data_dir.check(environment.config.data_dir, environment.checkout)

    def prepare(self, environment: Environment, planned: Sequence[PlannedBots]) -> Site:
        return self.site(environment)

    def deploy(self, environment: Environment, site: Site, placed: Sequence[PlacedBots]) -> Deployment:
        return _deploy(environment, placed)


class NoKeys(BaseModel):
    """Keys of a placement on this machine, which has none."""


class LocalPlacement:
    """Ability of the cloud `local` to give a place to bots: processes beside the dispatcher."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        if site.cloud != CLOUD or name != CLOUD:
            raise ConfigError(
                f"switchboard:placements.{name}.cloud: {CLOUD!r} is refused, since these processes are "
                f"beside a dispatcher of cloud {CLOUD}; allowed: any other cloud"
            )
        # The dispatcher's own default: one placement, of processes.
        return PlannedBots(name=name, cloud=CLOUD, keys=NoKeys())

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        return PlacedBots(planned=planned)

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        return OWN_MACHINE


def check_port(config: CoreConfig) -> None:
    """Raise ConfigError if any but this stack's dispatcher has the port."""
    if process.port_free(HOST, config.port):
        return
    ours = process.find([COMMAND], DATA_DIR_VARIABLE, str(_service_dir(config)))
    if not any(process.listens(one.pid, config.port) for one in ours):
        raise ConfigError(server.port_taken(config.port))


def _service_dir(config: CoreConfig) -> Path:
    """The dispatcher's own directory, beside its log."""
    return config.data_dir / "dispatcher"


def _log_file(config: CoreConfig) -> Path:
    return config.data_dir / "dispatcher.log"


def _settings(config: CoreConfig, planned: Sequence[PlannedBots]) -> Settings:
    placements = Placements.of(config, planned)
    return settings_of(
        config, placements, host=HOST, data_dir=_service_dir(config), log_file=_log_file(config)
    )


def missing_package(config: CoreConfig) -> str | None:
    """Return advice about a package that bots need and that is not installed: it is too large for
    everybody."""
    offering = [name for name, agent in config.agents.items() if "daily" in agent.transports]
    if not offering or importlib.util.find_spec("daily") is not None:
        return None
    return (
        f"switchboard:agents.{offering[0]}.transports: a bot in a Daily room needs the package daily-python, "
        f"which is not installed; {PYTHON} -m pip install -r images/requirements-bot-daily.txt"
    )


def _deploy(environment: Environment, placed: Sequence[PlacedBots]) -> Deployment:
    """Describe the stack: the machines' directory and the bots' environments, then the dispatcher."""
    checkout = environment.checkout
    config, environments = with_environments(environment.config, checkout)
    settings = _settings(config, [one.planned for one in placed])
    variables = settings.to_environment()
    log_file = _log_file(config)
    secrets = {
        **daily.secret_variables(config),
        **ice.secret_variables(config, settings),
        **phones.secret_variables(config),
        **webhooks.secret_variables(config),
    }
    if missing := missing_package(config):
        pulumi.log.warn(missing)
    names = sorted({*tracing_names(), *(name for agent in config.agents.values() for name in agent.env)})
    machines = Machines(
        "machines",
        command=COMMAND,
        stop_command=[*COMMAND, "stop-machines"],
        cwd=checkout,
        environment=variables,
        secrets=secrets,
    )
    Dispatcher(
        "dispatcher",
        command=COMMAND,
        cwd=checkout,
        environment=variables,
        secrets=secrets,
        secret_names=names,
        secret_fingerprint=secret_fingerprint(
            {name: os.environ.get(name) for name in names}, salt=str(config.data_dir)
        ),
        code=code_hash(checkout, [agent.bot for agent in config.agents.values()]),
        outside=outside(config),
        log_file=log_file,
        host=HOST,
        port=config.port,
        opts=pulumi.ResourceOptions(depends_on=[machines, *environments]),
    )
    return Deployment(url=settings.url, log=str(log_file), data=str(config.data_dir))
