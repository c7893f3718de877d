"""Names of a `fly` stack's apps, and the settings of its dispatcher: pure, from the stack's config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from dispatcher.machines.fly.settings import FlyPlacement
from dispatcher.settings import ENVIRONMENT_PREFIX, AgentSettings, IceServer, Settings
from stacks.clouds import keys_of
from stacks.core_config import CoreConfig
from stacks.deployment import Environment, PlannedBots
from stacks.errors import ConfigError
from stacks.fly.config import LONGEST_PREFIX, FlyKeys, FlyPlacementConfig
from stacks.shared.settings import Placements, agents_at, agents_in_images, settings_of

CLOUD = "fly"

PORT = 7860
"""Port of the dispatcher, in its machine."""

DATA_DIR = Path("/data")

LONGEST_NAME = 63
"""Characters of an app's name, which is a part of a host's (RFC 1035)."""

NOT_BUILT = f"not-built-yet@sha256:{'0' * 64}"


@dataclass(frozen=True)
class Names:
    """Names of the apps. They are unique in all of Fly."""

    prefix: str

    @property
    def dispatcher(self) -> str:
        return self.prefix

    def bots(self, agent: str, shard: int) -> str:
        return f"{self.prefix}-{agent}-{shard}"

    @property
    def host(self) -> str:
        return f"{self.dispatcher}.fly.dev"


@dataclass(frozen=True)
class Known:
    """Values that are not in the config, but made by the stack."""

    placements: Placements
    images: Mapping[str, str]
    """Agent → the reference of its image."""
    signing_secret: str

    @classmethod
    def none(cls, config: CoreConfig, planned: Sequence[PlannedBots]) -> Known:
        """Stand-ins, for looking at the config before anything is made."""
        # Images of other placements are in their settings.
        images = next((one.images for one in planned if one.name == CLOUD), {})
        placements = Placements.of(config, planned)
        return cls(placements, images, "not known yet, but long enough for the check")


def not_built(agents: Mapping[str, AgentSettings]) -> dict[str, str]:
    """Return stand-ins for the agents' images."""
    return {name: agent.image or NOT_BUILT for name, agent in agents.items()}


def names(environment: Environment, name: str) -> Names:
    """Return the names of a placement's apps. Raises ConfigError if Fly would not take them."""
    config = environment.config
    keys = cast(FlyPlacementConfig, keys_of(config, name))
    prefix = keys.prefix or f"{environment.project}-{environment.stack}"
    key = "switchboard:fly.prefix"
    if name != CLOUD:
        # One that the placement's own entry gives is taken as it is.
        key = f"switchboard:placements.{name}.prefix"
        prefix = prefix if "prefix" in config.placements[name].keys else f"{prefix}-{name}"
    made = Names(_checked(prefix, key))
    for agent in agents_at(config, name):
        app = made.bots(agent, keys.apps - 1)
        if len(app) > LONGEST_NAME:
            raise ConfigError(
                f"switchboard:agents.{agent}: its app would be called {app}, of {len(app)} characters; "
                f"allowed: {LONGEST_NAME}; a shorter {key} makes room"
            )
    return made


def host_names(environment: Environment) -> Names:
    """Return the names of the host's apps. Raises ConfigError if Fly would not take them."""
    prefix = FlyKeys.of(environment.config).fly.prefix or f"{environment.project}-{environment.stack}"
    return Names(_checked(prefix, "switchboard:fly.prefix"))


def _checked(prefix: str, key: str) -> str:
    if not re.fullmatch(rf"[a-z][a-z0-9-]{{0,{LONGEST_PREFIX - 1}}}", prefix):
        raise ConfigError(
            f"{key}: is not there, and {prefix!r}, of project and stack, is no app's name; "
            f"allowed: at most {LONGEST_PREFIX} of a-z, 0-9 and -, beginning with a letter"
        )
    return prefix


def url(config: CoreConfig, called: Names) -> str:
    """Return the URL at which clients and machines reach the dispatcher."""
    return f"https://{FlyKeys.of(config).fly.domain or called.host}"


def placements(
    config: CoreConfig, name: str, called: Names, keys: FlyPlacementConfig, machine_url: str
) -> dict[str, FlyPlacement]:
    """Return the settings of a placement's parts: agent → its dispatcher's placement.

    Each agent has apps of its own: their secrets are its variables, and no other bots see them.

    Args:
        machine_url: URL at which machines reach the dispatcher, if it is not the deployment's.
    """
    elsewhere: dict[str, Any] = {"machine_url": machine_url} if machine_url else {}
    return {
        agent: FlyPlacement(
            provider="fly",
            apps=tuple(called.bots(agent, shard) for shard in range(keys.shards)),
            draining_apps=tuple(called.bots(agent, shard) for shard in range(keys.shards, keys.apps)),
            region=",".join(keys.regions),
            cpu_kind=keys.cpu_kind,
            **elsewhere,
        )
        for agent in agents_at(config, name)
    }


def dispatcher(config: CoreConfig, called: Names, known: Known) -> Settings:
    """Return the dispatcher's settings, with those that are secret.

    Raises:
        ConfigError: the config does not make sense as a whole.
    """
    stun = FlyKeys.of(config).fly.stun
    optional: dict[str, Any] = {}
    if stun:
        optional["ice_servers"] = (IceServer(urls=stun),)
    if database := config.database_url.get_secret_value():
        optional["database_url"] = database
    return settings_of(
        config,
        known.placements,
        # All of its machine's addresses; what of it is reachable, its services say.
        host="0.0.0.0",  # noqa: S104
        port=PORT,
        data_dir=DATA_DIR,
        public_url=url(config, called),
        # Of Fly's own: it leads there before a domain does, and whatever becomes of that.
        machine_url=f"https://{called.host}",
        agents=agents_in_images(config),
        images=known.images,
        secrets=(SecretStr(known.signing_secret),),
        **optional,
    )


TOKEN_SETTING = "fly_api_token"  # noqa: S105 - its name
DISPATCHER_TOKEN_VARIABLE = f"{ENVIRONMENT_PREFIX}FLY_API_TOKEN"
SECRETS_VARIABLE = f"{ENVIRONMENT_PREFIX}SECRETS"


def secret_variables(settings: Settings) -> dict[str, str]:
    """The dispatcher's variables that are secret and this host's own, which `to_environment` leaves out."""
    found = {"secrets": json.dumps([secret.get_secret_value() for secret in settings.secrets])}
    if settings.database_url:
        found["database_url"] = settings.database_url
    return {ENVIRONMENT_PREFIX + name.upper(): value for name, value in sorted(found.items())}
