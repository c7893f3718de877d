"""The program of a `local` stack: the machines' directory, the bots' environments, the dispatcher."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pulumi

from dispatcher.settings import Settings
from stacks import daily, ice
from stacks.config import StackConfig
from stacks.deployment import Deployment, Environment
from stacks.errors import ConfigError
from stacks.local import data_dir, process, server
from stacks.local.bots import Machines
from stacks.local.content import code_hash, secret_fingerprint
from stacks.local.dispatcher import DATA_DIR_VARIABLE, TRACING_PREFIX, Dispatcher
from stacks.local.environments import with_environments

CHECKOUT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
# By the environment, not by how this interpreter was called (python, python3, …): two ways to run the
# same program must describe the same command.
PYTHON = str(Path(sys.prefix) / "bin" / "python")


COMMAND = [PYTHON, "-m", "dispatcher"]


def check(config: StackConfig) -> None:
    """Before an engine runs.

    Raises:
        ConfigError: what only the whole config tells, a directory that cannot be the stack's, or any but this
            stack's dispatcher has the port.
    """
    _settings(config)
    data_dir.check(config.data_dir, CHECKOUT)
    if process.port_free(HOST, config.port):
        return
    ours = process.find([COMMAND], DATA_DIR_VARIABLE, str(_service_dir(config)))
    if not any(process.listens(one.pid, config.port) for one in ours):
        raise ConfigError(server.port_taken(config.port))


def _service_dir(config: StackConfig) -> Path:
    """The dispatcher's own directory, beside its log."""
    return config.data_dir / "dispatcher"


def _log_file(config: StackConfig) -> Path:
    return config.data_dir / "dispatcher.log"


def _settings(config: StackConfig) -> Settings:
    return config.settings(host=HOST, data_dir=_service_dir(config), log_file=_log_file(config))


def missing_package(config: StackConfig) -> str | None:
    """Return advice about a package that bots need and that is not installed: it is too large for
    everybody."""
    offering = [name for name, agent in config.agents.items() if "daily" in agent.transports]
    if not offering or importlib.util.find_spec("daily") is not None:
        return None
    return (
        f"switchboard:agents.{offering[0]}.transports: a bot in a Daily room needs the package daily-python, "
        f"which is not installed; {PYTHON} -m pip install -r images/requirements-bot-daily.txt"
    )


def deploy(environment: Environment) -> Deployment:
    """Describe the stack: the machines' directory and the bots' environments, then the dispatcher."""
    checkout = environment.checkout
    config, environments = with_environments(environment.config, checkout)
    settings = _settings(config)
    data_dir.check(config.data_dir, checkout)
    variables = settings.to_environment()
    log_file = _log_file(config)
    secrets = {**daily.secret_variables(config), **ice.secret_variables(config, settings)}
    if missing := missing_package(config):
        pulumi.log.warn(missing)
    tracing = [name for name in os.environ if name.startswith(TRACING_PREFIX)]
    names = sorted({*tracing, *(name for agent in config.agents.values() for name in agent.env)})
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
        outside={**daily.not_set_here(config), f"{TRACING_PREFIX}*": ""},
        log_file=log_file,
        host=HOST,
        port=config.port,
        opts=pulumi.ResourceOptions(depends_on=[machines, *environments]),
    )
    return Deployment(url=settings.url, log=str(log_file), data=str(config.data_dir))
