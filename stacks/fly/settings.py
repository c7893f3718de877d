"""Names of a `fly` stack's apps, and the settings of its dispatcher: pure, from the stack's config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from dispatcher.machines.fly.settings import FlyPlacement, FlyShared
from dispatcher.settings import (
    ENVIRONMENT_PREFIX,
    AgentSettings,
    IceServer,
    Settings,
)
from stacks.config import StackConfig
from stacks.docker.settings import bot_in_image
from stacks.errors import ConfigError
from stacks.fly.config import LONGEST_PREFIX

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

    images: Mapping[str, str]
    """Agent → the reference of its image."""
    token: str
    """The dispatcher's setting `fly_api_token`: of each of the bots' apps."""
    signing_secret: str

    @classmethod
    def none(cls, config: StackConfig) -> Known:
        """Stand-ins, for looking at the config before anything is made."""
        images = {name: agent.image or NOT_BUILT for name, agent in config.agents.items()}
        return cls(images, "not known yet", "not known yet, but long enough for the check")


def names(config: StackConfig, project: str, stack: str) -> Names:
    """The names of the apps. Raises ConfigError if Fly would not take them."""
    prefix = config.fly.prefix or f"{project}-{stack}"
    if not re.fullmatch(rf"[a-z][a-z0-9-]{{0,{LONGEST_PREFIX - 1}}}", prefix):
        raise ConfigError(
            f"switchboard:fly.prefix: is not there, and {prefix!r}, of project and stack, is no app's name; "
            f"allowed: at most {LONGEST_PREFIX} of a-z, 0-9 and -, beginning with a letter"
        )
    made = Names(prefix)
    for agent in config.agents:
        name = made.bots(agent, config.fly.apps - 1)
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"switchboard:agents.{agent}: its app would be called {name}, of {len(name)} characters; "
                f"allowed: {LONGEST_NAME}; a shorter switchboard:fly.prefix makes room"
            )
    return made


def url(config: StackConfig, called: Names) -> str:
    """Return the URL at which clients and machines reach the dispatcher."""
    return f"https://{config.fly.domain or called.host}"


def dispatcher(config: StackConfig, called: Names, known: Known) -> Settings:
    """The dispatcher's settings, with those that are secret.

    Raises:
        ConfigError: the config does not make sense as a whole.
    """
    optional: dict[str, Any] = {}
    if config.fly.stun:
        optional["ice_servers"] = (IceServer(urls=config.fly.stun),)
    if database := config.database_url.get_secret_value():
        optional["database_url"] = database
    return config.settings(
        # All of its machine's addresses; what of it is reachable, its services say.
        host="0.0.0.0",  # noqa: S104
        port=PORT,
        data_dir=DATA_DIR,
        public_url=url(config, called),
        # Of Fly's own: it leads there before a domain does, and whatever becomes of that.
        machine_url=f"https://{called.host}",
        placements={
            # Each agent has apps of its own: their secrets are its variables, and no other bots see them.
            agent: FlyPlacement(
                provider="fly",
                apps=tuple(called.bots(agent, shard) for shard in range(config.fly.shards)),
                draining_apps=tuple(
                    called.bots(agent, shard) for shard in range(config.fly.shards, config.fly.apps)
                ),
                region=",".join(config.fly.regions),
                cpu_kind=config.fly.cpu_kind,
            )
            for agent in config.agents
        },
        agents={name: _agent(config, name, agent) for name, agent in config.agents.items()},
        images=known.images,
        fly_api_url=config.fly.api_url,
        fly_api_token=SecretStr(known.token),
        secrets=(SecretStr(known.signing_secret),),
        **optional,
    )


def _agent(config: StackConfig, name: str, agent: AgentSettings) -> AgentSettings:
    if agent.placements:
        raise ConfigError(
            f"switchboard:agents.{name}.placements: is there, and cloud is fly; allowed: "
            "switchboard:fly.regions, for all agents"
        )
    return agent.model_copy(update={"bot": bot_in_image(agent.bot, agent.image), "placements": (name,)})


DISPATCHER_TOKEN_VARIABLE = f"{ENVIRONMENT_PREFIX}FLY_API_TOKEN"
SECRETS_VARIABLE = f"{ENVIRONMENT_PREFIX}SECRETS"


def secret_variables(settings: Settings) -> dict[str, str]:
    """The dispatcher's variables that are secret and this cloud's own, which `to_environment` leaves out."""
    found = {"secrets": json.dumps([secret.get_secret_value() for secret in settings.secrets])}
    if (token := settings.shared("fly", FlyShared).api_token) is not None:
        found["fly_api_token"] = token.get_secret_value()
    if settings.database_url:
        found["database_url"] = settings.database_url
    return {ENVIRONMENT_PREFIX + name.upper(): value for name, value in sorted(found.items())}
