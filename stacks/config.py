"""The typed stack config, and the one place where it is read. `stacks.refusals` words what is refused."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from dispatcher.fields import Allowed
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
from stacks.refusals import explain, explain_settings, masked, sections

Cloud = Literal["local", "docker", "fly"]

AGENTS_WORDS = "at least one agent, each as `name: {bot: path/to/bot.py}`"
KEYS_WORDS = "a list of the entries that `make key NAME=…` prints"


class OnlyOn:
    """Metadata of a field: the clouds whose stacks may have the key."""

    def __init__(self, *clouds: str) -> None:
        self.clouds = clouds


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

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    cloud: Cloud = "local"
    """Cloud that the stack runs on: `local` (processes of this machine), `docker` (containers of one Docker
    engine) or `fly` (Fly.io)."""
    port: int = Field(default=7860, ge=1, le=65535)
    """TCP port of the dispatcher and its voice page."""
    agents: Annotated[dict[AgentName, AgentSettings], Allowed(AGENTS_WORDS)] = Field(min_length=1)
    """Agents by name: each is a bot file with its size, transports and limits."""
    default_agent: str = ""
    """Agent of `POST /start`; by default the first of `agents` in alphabetical order."""
    keys: Annotated[Keys, Allowed(KEYS_WORDS)] = ()
    """Keys of callers, by their hashes: the entries that `make key NAME=…` prints. With none, callers on this
    machine need no key."""
    allowed_origins: Annotated[
        tuple[Origin, ...], Allowed("a list of origins such as http://192.168.1.20:5173")
    ] = ()
    """Sites whose pages may call without a key, beside pages that this machine serves. Not with `keys`: there
    each key names its own origins."""
    allowed_hosts: Annotated[
        tuple[HostName, ...],
        Allowed("a list of names such as host.docker.internal, without http:// and port"),
    ] = ()
    """Other host names under which the dispatcher is called, such as a tunnel's. Without `keys`, anyone who
    reaches it under such a name may do everything."""
    max_sessions: int = Field(default=0, ge=0, le=1_000_000)
    """Limit on simultaneous sessions of all agents; 0 leaves only the agents' own limits."""
    keep_sessions_days: int = Field(default=30, ge=1, le=3650)
    """Days that an ended session and its timeline are kept."""
    heartbeat_seconds: int = Field(default=5, ge=1, le=60)
    """Interval between the heartbeats that a machine sends over its channel."""
    unresponsive_seconds: int = Field(default=120, ge=30, le=86_400)
    """Time without a heartbeat after which a ready bot's machine is terminated, even if its provider says
    that it runs."""
    ending_seconds: int = Field(default=60, ge=0, le=3600)
    """Longest time that an ended session counts against `maxSessions` while its machine may still run."""
    call_timeout_seconds: int = Field(default=30, ge=1, le=600)
    """Timeout of a client's request to a running bot."""
    max_start_body_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    """Largest body of a start request."""
    drain_seconds: Annotated[int, OnlyOn("docker", "fly")] = Field(default=5, ge=0, le=20)
    """Time that a dispatcher goes on answering after it is told to exit, so that load balancers send callers
    elsewhere."""
    process_isolation: Annotated[Literal["auto", "off", "required"], OnlyOn("local")] = "auto"
    """Isolation of bots from each other and from the dispatcher's data. `auto` uses what the host offers,
    `required` refuses to start bots without it."""
    ice_servers: Annotated[
        tuple[IceServerConfig, ...],
        Allowed("a list of servers, each with urls, and of TURN with username and credential"),
    ] = ()
    """STUN and TURN servers of your own with fixed credentials, for sessions over `webrtc`. A credential is
    secret: set it by `pulumi config set --path --secret 'switchboard:iceServers[0].credential'`."""
    turn_urls: Annotated[tuple[TurnUrl, ...], Allowed(ice.TURN_URLS_WORDS)] = ()
    """TURN servers of your own (coturn with use-auth-secret). Each session gets a credential of its own, made
    with `turnSecret`."""
    turn_secret: SecretStr = SecretStr("")
    """The static-auth-secret of the servers of `turnUrls`."""
    log_level: LogLevel = "info"
    """Level of the log lines of the dispatcher, and of bots whose agent sets none."""
    log_format: LogFormat = "text"
    """Format of the dispatcher's log lines: `text` for people, `json` for collectors."""
    throwaway: bool = False
    """Allow `make up` and `make down` to delete the stack's data without asking. Otherwise resources that
    hold data are protected."""
    data_dir: Annotated[Path, OnlyOn("local")]
    """Directory of store, logs and machines; by default `.switchboard/stacks/<stack>`."""
    docker: Annotated[DockerConfig, OnlyOn("docker")] = DockerConfig()
    """Keys of the cloud `docker`. See docs/docker.md."""
    fly: Annotated[FlyConfig, OnlyOn("fly")] = FlyConfig()
    """Keys of the cloud `fly`. See docs/fly.md."""
    daily: DailyConfig = DailyConfig()
    """Daily domain whose rooms sessions over `daily` meet in. See docs/daily.md."""
    fly_api_token: Annotated[SecretStr, OnlyOn("fly")] = SecretStr("")
    """Token of the Fly organization; by default FLY_API_TOKEN of the environment."""
    daily_api_key: SecretStr = SecretStr("")
    """API key of the Daily domain; by default DAILY_API_KEY of the environment, if an agent offers
    `daily`."""
    daily_webhook_secret: SecretStr = SecretStr("")
    """Secret that Daily signs webhooks with; by default DAILY_WEBHOOK_SECRET of the environment, else derived
    from `dailyApiKey`."""
    database_url: Annotated[SecretStr, OnlyOn("fly")] = SecretStr("")
    """URL of a PostgreSQL for the store; by default the store is SQLite on a volume."""

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
            raise ValueError(f"keys: is missing, and a dispatcher at Fly is public; allowed: {KEYS_WORDS}")
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
            raise ValueError(f"turnUrls: is missing, and turnSecret is there; allowed: {ice.TURN_URLS_WORDS}")
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


STRUCTURED = (
    *sections(StackConfig),
    *(
        field.alias or name
        for name, field in StackConfig.model_fields.items()
        if get_origin(field.annotation) in (tuple, dict)
    ),
)
"""Keys whose values are YAML mappings and lists; the engine hands them to a program as JSON."""

ONLY_WITH = {
    field.alias or name: one.clouds
    for name, field in StackConfig.model_fields.items()
    for one in field.metadata
    if isinstance(one, OnlyOn)
}
"""Keys that only some clouds have → these."""


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
