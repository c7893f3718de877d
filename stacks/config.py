"""The typed stack config, and the one place where it is read. `stacks.refusals` words what is refused."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from dispatcher.keys import HostName, Keys, Origin
from dispatcher.settings import (
    AgentName,
    AgentSettings,
    LogFormat,
    LogLevel,
    Settings,
    TurnUrl,
    is_loopback,
)
from stacks import daily, ice
from stacks.daily import DailyConfig
from stacks.docker.config import DockerConfig, why_no_image
from stacks.errors import ConfigError
from stacks.fly.config import FlyConfig
from stacks.ice import IceServerConfig
from stacks.refusals import KEYS, explain, explain_settings, masked

Cloud = Literal["local", "docker", "fly"]

# The keys whose values are written as YAML mappings and lists; the engine hands them to a program as JSON.
STRUCTURED = (
    *("agents", "keys", "allowedOrigins", "allowedHosts", "iceServers", "turnUrls"),
    *("docker", "fly", "daily"),
)

ONLY_WITH = {
    **dict.fromkeys(("dataDir", "processIsolation"), ("local",)),
    "drainSeconds": ("docker", "fly"),
    "docker": ("docker",),
    **dict.fromkeys(("fly", "flyApiToken", "databaseUrl"), ("fly",)),
}
"""Keys that only some clouds have."""

NAMESPACES: Mapping[str, tuple[str, ...]] = {
    "local": (),
    "docker": ("docker", "docker-build"),
    "fly": ("docker-build",),
}
"""Cloud → the providers whose own config keys (`docker-build:host`) a stack may have."""

ENGINE_NAMESPACE = "pulumi"
"""Namespace of keys that the engine itself reads, such as `pulumi:disable-default-providers`."""

PLAIN_SETTINGS = (
    *("allowed_origins", "allowed_hosts"),
    *("keep_sessions_days", "heartbeat_seconds", "call_timeout_seconds", "unresponsive_seconds"),
    "ending_seconds",
    *("process_isolation", "drain_seconds", "max_start_body_bytes"),
)
"""Fields that the dispatcher has under the same names, with the same defaults."""


class StackConfig(BaseModel):
    """The config of one stack, as in `stacks/Pulumi.<stack>.yaml`. All paths are absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    cloud: Cloud = "local"
    port: int = Field(default=7860, ge=1, le=65535)
    agents: dict[AgentName, AgentSettings] = Field(min_length=1)
    default_agent: str = ""
    """The agent of `POST /start`; empty for the first by name, since the engine sorts an object's keys."""
    keys: Keys = ()
    """The callers, by the hashes of their keys; without any, only this machine."""
    allowed_origins: tuple[Origin, ...] = ()
    """Sites whose pages may call without a key; with keys each key names its own."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Other names under which the dispatcher is called, such as a tunnel's."""
    max_sessions: int = Field(default=0, ge=0, le=1_000_000)
    """Sessions of all agents at the same time; 0 for no limit but the agents' own."""
    keep_sessions_days: int = Field(default=30, ge=1, le=3650)
    """Time that sessions are kept after their end, with their timelines."""
    heartbeat_seconds: int = Field(default=5, ge=1, le=60)
    """Time between two reports of a machine over its channel."""
    unresponsive_seconds: int = Field(default=120, ge=30, le=86_400)
    """Longest time without a report of the machine of a bot that was ready: it is ended then, although its
    provider says that it runs."""
    ending_seconds: int = Field(default=60, ge=0, le=3600)
    """Longest time that a session which is over counts against `max_sessions`, because its machine is not
    known to be gone."""
    call_timeout_seconds: int = Field(default=30, ge=1, le=600)
    """Limit on a client's request to a running bot."""
    max_start_body_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    """Size of a start's request."""
    drain_seconds: int = Field(default=5, ge=0, le=20)
    """How long a dispatcher that is told to exit goes on answering; on the cloud local not at all."""
    process_isolation: Literal["auto", "off", "required"] = "auto"
    """Keep bots from each other and from `data_dir`; of the cloud local."""
    ice_servers: tuple[IceServerConfig, ...] = ()
    """STUN and TURN servers for bots and clients, behind those that the stack has itself."""
    turn_urls: tuple[TurnUrl, ...] = ()
    """TURN servers that share `turn_secret` with the dispatcher."""
    turn_secret: SecretStr = SecretStr("")
    """The secret of `turn_urls`: each session gets a credential of its own, an HMAC under it."""
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    throwaway: bool = False
    """True if the stack's data may go without a word."""
    data_dir: Path
    """The directory of the store, the logs and the machines' directories; of the cloud local."""
    docker: DockerConfig = DockerConfig()
    """Keys of the cloud docker."""
    fly: FlyConfig = FlyConfig()
    """Keys of the cloud fly."""
    daily: DailyConfig = DailyConfig()
    """Keys of every cloud, with the two secrets of Daily's below."""
    fly_api_token: SecretStr = SecretStr("")
    """The token that the stack's resources are made with; else FLY_API_TOKEN of the environment."""
    daily_api_key: SecretStr = SecretStr("")
    """Else DAILY_API_KEY of the environment."""
    daily_webhook_secret: SecretStr = SecretStr("")
    """Else DAILY_WEBHOOK_SECRET of the environment."""
    database_url: SecretStr = SecretStr("")
    """The store's, a PostgreSQL; by default SQLite on a volume."""

    @model_validator(mode="after")
    def _for_its_cloud(self) -> StackConfig:
        address = self.docker.address
        if self.cloud == "docker" and not self.keys and not is_loopback(address):
            raise ValueError(
                f"docker.address: {address} is reachable from other machines, so keys must be set; "
                "without keys only 127.0.0.1 or ::1 is allowed"
            )
        if self.cloud == "docker" and not self.keys and self.docker.domain:
            raise ValueError(
                f"docker.domain: {self.docker.domain} is reachable from other machines, so keys must be set"
            )
        if self.cloud == "fly" and not self.keys:
            raise ValueError(f"keys: is missing, and a dispatcher at Fly is public; allowed: {KEYS}")
        if self.keys and self.allowed_origins:
            raise ValueError(
                f"allowedOrigins: {self.allowed_origins[0]} is there, and so are keys; allowed: no "
                "allowedOrigins, and the site in the origins of the key that its pages use"
            )
        if self.fly.dispatchers > 1 and not self.database_url.get_secret_value():
            raise ValueError(
                f"fly.dispatchers: {self.fly.dispatchers} is refused, since one SQLite is one dispatcher's; "
                "allowed: 1, or more with databaseUrl, the URL of a PostgreSQL"
            )
        return self

    @model_validator(mode="after")
    def _with_its_turn_server(self) -> StackConfig:
        secret = bool(self.turn_secret.get_secret_value())
        if self.turn_urls and self.cloud == "docker" and self.docker.turn:
            raise ValueError("turnUrls: is there, and docker.turn is on; allowed: one of them")
        if self.turn_urls and not secret:
            raise ValueError(
                "turnSecret: is missing, and turnUrls is there; allowed: the static-auth-secret "
                "of these servers, by `pulumi config set --secret switchboard:turnSecret`"
            )
        if secret and not self.turn_urls:
            raise ValueError(
                f"turnUrls: is missing, and turnSecret is there; allowed: {ice.FIELDS['turnUrls']}"
            )
        return self

    def settings(self, **of_the_cloud: Any) -> Settings:
        """The dispatcher's settings under this config. Raises ConfigError for what only the whole tells."""
        # What is not given must not come from the environment of whoever runs the engine: their
        # SWITCHBOARD_KEYS would end up in the stack's state.
        no_environment: dict[str, Any] = {"_env_prefix": "NOT_FROM_THE_ENVIRONMENT_"}
        try:
            given: dict[str, Any] = {
                "port": self.port,
                "max_sessions": self.max_sessions or None,
                "log_level": self.log_level,
                "log_format": self.log_format,
                "agents": self.agents,
                "keys": self.keys,
                "default_agent": self.default_agent or min(self.agents),
            }
            # A default is not given: a new key must not change the environment of a stack that is up.
            for name in PLAIN_SETTINGS:
                if getattr(self, name) != StackConfig.model_fields[name].default:
                    given[name] = getattr(self, name)
            servers = ice.settings_of(self, of_the_cloud.get("ice_servers", ()))
            return Settings(**(given | daily.settings_of(self) | of_the_cloud | servers | no_environment))
        except ValidationError as error:
            raise ConfigError(explain_settings(error, "switchboard", daily.keys_of(self))) from None


def parse(values: Mapping[str, str], *, project: str, checkout: Path, stack: str) -> StackConfig:
    """The stack config from the engine's values (`switchboard:port` → text; objects as JSON).

    Keys of the cloud's providers, such as `docker-build:host`, and of the engine pass.
    Raises ConfigError with a line for each value that is refused.
    """
    prefix = f"{project}:"
    raw: dict[str, Any] = {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }
    for key in STRUCTURED:
        if key in raw:
            raw[key] = _structure(raw[key])
    cloud = raw.get("cloud", "local")
    _refuse_unknown_namespaces(values, project, cloud)
    defaults = {field.alias: str(field.default) for field in StackConfig.model_fields.values()}
    for key, clouds in ONLY_WITH.items():
        # The engine hands over every default of Pulumi.yaml.
        given = raw.get(key) and raw[key] != defaults[key]
        if given and cloud in get_args(Cloud) and cloud not in clouds:
            allowed = " and ".join(clouds)
            raise ConfigError(f"{prefix}{key}: is there, and cloud is {cloud}; allowed: only with {allowed}")
    raw["dataDir"] = _data_dir(raw.get("dataDir") or f".switchboard/stacks/{stack}", prefix, checkout)
    try:
        config = StackConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, StackConfig, project)) from None
    for index, key in enumerate(config.keys):
        for place, agent in enumerate(key.agents):
            _known_agent(config, agent, f"{prefix}keys[{index}].agents[{place}]")
    if config.default_agent:
        _known_agent(config, config.default_agent, f"{prefix}defaultAgent")
    return config.model_copy(
        update={"agents": _with_bot_files(config.agents, prefix, checkout, in_images=cloud != "local")}
    )


def _refuse_unknown_namespaces(values: Mapping[str, str], project: str, cloud: str) -> None:
    """A key that nobody reads is a mistake: `switchbord:port`, or `aws:region` where there is no AWS."""
    known = (project, ENGINE_NAMESPACE, *NAMESPACES.get(cloud, ()))
    lines = []
    for key in values:
        namespace, _, name = key.partition(":")
        if namespace in known or cloud not in NAMESPACES:
            continue
        alike = difflib.get_close_matches(namespace, known, n=1)
        allowed = (
            f"{alike[0]}:{name}" if alike else f"keys that begin with {', '.join(f'{one}:' for one in known)}"
        )
        lines.append(
            f"{masked(key)}: nothing of a stack of cloud {cloud} reads {namespace}:…; allowed: {allowed}"
        )
    if lines:
        raise ConfigError("\n".join(lines))


def _data_dir(given: str, prefix: str, checkout: Path) -> Path:
    # The engine hands over `dataDir: 5` and `dataDir: true` as text.
    found = _structure(given)
    if not isinstance(found, str):
        shown = f" {given}" if isinstance(found, (bool, int, float)) else ""
        raise ConfigError(
            f"{prefix}dataDir:{shown} has the wrong type; allowed: the path of a directory, absolute or "
            "from the checkout (./5 for one that is called 5)"
        )
    return checkout / Path(given).expanduser()


def _known_agent(config: StackConfig, agent: str, key: str) -> None:
    if agent not in config.agents:
        raise ConfigError(f"{key}: {masked(agent)!r} is not an agent; allowed: {', '.join(config.agents)}")


def _structure(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # the type is refused with the rest


def _with_bot_files(
    agents: Mapping[str, AgentSettings], prefix: str, checkout: Path, in_images: bool
) -> dict[str, AgentSettings]:
    """The agents with absolute bot files, all of which exist; in an image that there is, nobody looks."""
    found = {}
    for name, agent in agents.items():
        if in_images and agent.image is not None:
            found[name] = agent
            continue
        given = masked(str(agent.bot))
        path = (checkout / agent.bot.expanduser()).resolve()
        if not path.is_file():
            raise ConfigError(
                f"{prefix}agents.{name}.bot: {given!r} is not there (looked for {masked(str(path))}); "
                "allowed: the path of a Python file with `async def bot(runner_args)`, absolute or from "
                "the checkout"
            )
        if in_images and (whole := why_no_image(path.parent, checkout)):
            raise ConfigError(
                f"{prefix}agents.{name}.bot: {given!r} is refused: all of its directory becomes an "
                f"image, and {path.parent} is {whole}; allowed: a bot file in a directory of its own"
            )
        found[name] = agent.model_copy(update={"bot": path})
    return found
