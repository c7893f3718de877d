"""Stacks that are planned from a config alone, and their dispatcher's settings with stand-ins."""

from __future__ import annotations

from pathlib import Path

from dispatcher.settings import Settings
from stacks import assembly
from stacks.core_config import CoreConfig
from stacks.deployment import Environment
from stacks.docker import settings as of_docker
from stacks.fly import settings as of_fly
from stacks.shared.settings import Placements, settings_of

REPOSITORY = Path(__file__).resolve().parents[2]


def environment_of(config: CoreConfig, stack: str = "prod") -> Environment:
    return Environment("switchboard", stack, REPOSITORY, config)


def plan_of(config: CoreConfig) -> assembly.Plan:
    """Raises ConfigError for what only the whole config tells."""
    return assembly.plan(environment_of(config))


def settings_with_stand_ins(config: CoreConfig) -> Settings:
    planned = plan_of(config).planned
    placements = Placements.of(config, planned)
    match config.cloud:
        case "docker":
            return of_docker.dispatcher(config, of_docker.Known.none(config, placements))
        case "fly":
            called = of_fly.host_names(environment_of(config))
            return of_fly.dispatcher(config, called, of_fly.Known.none(config, planned))
        case _:
            return settings_of(config, placements, host="127.0.0.1", data_dir=Path("/nowhere"))
