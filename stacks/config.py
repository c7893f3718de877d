"""The typed stack config, and the one place where a bad value is refused.

Every refusal is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from dispatcher.keys import KeyRate, Keys, KeyScope, KeySettings
from dispatcher.settings import (
    AgentName,
    AgentSettings,
    LogFormat,
    LogLevel,
    Settings,
    TransportName,
    is_loopback,
)
from stacks import daily
from stacks.daily import DailyConfig
from stacks.docker import config as docker
from stacks.docker.config import DockerConfig, why_no_image
from stacks.errors import ConfigError
from stacks.fly import config as fly
from stacks.fly.config import FlyConfig

Cloud = Literal["local", "docker", "fly"]

# The keys whose values are written as YAML mappings; the engine hands them to a program as JSON.
STRUCTURED = ("agents", "keys", "docker", "fly", "daily")

SECRET_WORDS = ("key", "secret", "token", "password", "url")
"""What is shown of a key with one of these in its name is the name alone."""

ONLY_WITH = {
    "dataDir": "local",
    "docker": "docker",
    **dict.fromkeys(("fly", "flyApiToken", "databaseUrl"), "fly"),
}
"""Keys that only one cloud has."""

SECTIONS: dict[str, tuple[type[BaseModel], Mapping[str, str]]] = {
    "docker": (DockerConfig, docker.FIELDS),
    "fly": (FlyConfig, fly.FIELDS),
    "daily": (DailyConfig, daily.FIELDS),
}
"""Keys that are mappings: what they are, and what each of their keys takes."""

KEYS = "a list of the entries that `make key NAME=…` prints"
KEY_FIELDS = {
    "name": "a name of a-z, 0-9 and -, at most 63 long, that begins and ends with a letter or digit",
    "hash": "what `make key NAME=…` prints as such, never the key itself",
    "scope": ", ".join(get_args(KeyScope)),
    "agents": "a list of names of agents",
    "expiresAt": "a time with its offset, such as 2030-01-01T00:00:00Z",
}


class StackConfig(BaseModel):
    """The config of one stack, as in `stacks/Pulumi.<stack>.yaml`. All paths are absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    cloud: Cloud = "local"
    port: int = Field(default=7860, ge=1, le=65535)
    agents: dict[AgentName, AgentSettings] = Field(min_length=1)
    default_agent: str = ""
    """The agent of `POST /start`; empty for the first by name, since the engine sorts an object's keys."""
    keys: Keys = ()
    """Who may call, by the hashes of their keys; without any, only this machine."""
    max_sessions: int = Field(default=0, ge=0, le=1_000_000)
    """Sessions of all agents at the same time; 0 for no limit but the agents' own."""
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    data_dir: Path
    """Where the store, the logs and the machines' directories are kept; of the cloud local."""
    docker: DockerConfig = DockerConfig()
    """Of the cloud docker."""
    fly: FlyConfig = FlyConfig()
    """Of the cloud fly."""
    daily: DailyConfig = DailyConfig()
    """Of every cloud, with the two secrets of Daily's below."""
    fly_api_token: SecretStr = SecretStr("")
    """What the stack's resources are made with; else FLY_API_TOKEN of the environment."""
    daily_api_key: SecretStr = SecretStr("")
    """Else DAILY_API_KEY of the environment."""
    daily_webhook_secret: SecretStr = SecretStr("")
    """Else DAILY_WEBHOOK_SECRET of the environment."""
    database_url: SecretStr = SecretStr("")
    """Of the store, a PostgreSQL; by default SQLite on a volume."""

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
        if self.fly.dispatchers > 1 and not self.database_url.get_secret_value():
            raise ValueError(
                f"fly.dispatchers: {self.fly.dispatchers} is refused, since one SQLite is one dispatcher's; "
                "allowed: 1, or more with databaseUrl, the URL of a PostgreSQL"
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
            return Settings(**(given | daily.settings_of(self) | of_the_cloud | no_environment))
        except ValidationError as error:
            raise ConfigError(_explain(error, "switchboard", daily.keys_of(self))) from None


def parse(values: Mapping[str, str], *, project: str, checkout: Path, stack: str) -> StackConfig:
    """The stack config from the engine's values (`switchboard:port` → text; objects as JSON).

    Keys of other projects, such as `aws:region`, are their providers' and pass.
    Raises ConfigError with a line for each value that is refused.
    """
    prefix = f"{project}:"
    raw: dict[str, Any] = {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }
    for key in STRUCTURED:
        if key in raw:
            raw[key] = _structure(prefix + key, raw[key])
    cloud = raw.get("cloud", "local")
    for key, of in ONLY_WITH.items():
        if raw.get(key) and cloud in get_args(Cloud) and cloud != of:
            raise ConfigError(f"{prefix}{key}: is there, and cloud is {cloud}; allowed: only with {of}")
    raw["dataDir"] = checkout / (raw.get("dataDir") or f".switchboard/stacks/{stack}")
    try:
        config = StackConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, project)) from None
    for index, key in enumerate(config.keys):
        for agent in key.agents:
            if agent not in config.agents:
                allowed = ", ".join(config.agents)
                raise ConfigError(
                    f"{prefix}keys.{index}.agents: {agent!r} is not an agent; allowed: {allowed}"
                )
    if config.default_agent and config.default_agent not in config.agents:
        raise ConfigError(
            f"{prefix}defaultAgent: {config.default_agent!r} is not an agent; "
            f"allowed: {', '.join(config.agents)}"
        )
    return config.model_copy(
        update={"agents": _with_bot_files(config.agents, prefix, checkout, in_images=cloud != "local")}
    )


def _structure(key: str, text: str) -> Any:
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
        path = (checkout / agent.bot.expanduser()).resolve()
        if not path.is_file():
            raise ConfigError(
                f"{prefix}agents.{name}.bot: {str(agent.bot)!r} is not there (looked for {path}); allowed: "
                "the path of a Python file with `async def bot(runner_args)`, absolute or from the checkout"
            )
        if in_images and (whole := why_no_image(path.parent, checkout)):
            raise ConfigError(
                f"{prefix}agents.{name}.bot: {str(agent.bot)!r} is refused: all of its directory becomes an "
                f"image, and {path.parent} is {whole}; allowed: a bot file in a directory of its own"
            )
        found[name] = agent.model_copy(update={"bot": path})
    return found


def _explain(error: ValidationError, project: str, keys: Mapping[str, str] | None = None) -> str:
    """A line for each value that is refused.

    Args:
        keys: A setting of the dispatcher's → what the config calls it, where that is not the same.
    """
    lines = []
    for fault in error.errors(include_url=False):
        path = _path(fault["loc"], keys or {})
        if fault["type"] == "value_error":
            # A check of our own, whose words say what is allowed.
            lines.append(f"{project}:{path}: {_message(fault)}" if path else f"{project}: {_message(fault)}")
            continue
        # What stands under `keys` may be a key that somebody took for its hash; and what is secret may stand
        # under a name that is nearly right.
        name = str(fault["loc"][0]).lower()
        hidden = fault["type"] == "missing" or any(word in name for word in SECRET_WORDS)
        value = "" if hidden else f" {_shown(fault['input'])}"
        lines.append(f"{project}:{path}:{value} {_wrong(fault)}; allowed: {_allowed(fault)}")
    return "\n".join(lines)


def _path(location: Sequence[int | str], keys: Mapping[str, str]) -> str:
    """`agents.echo.memoryMb`; a faulty name of a mapping is pydantic's `name`, `[key]`."""
    parts = [str(part) for part in location if part != "[key]"]
    return ".".join([keys.get(part, part) for part in parts[:1]] + parts[1:])


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _wrong(fault: ErrorDetails) -> str:
    kind = fault["type"]
    if kind == "extra_forbidden":
        return "is not a key"
    if kind == "missing":
        return "is missing"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return "has the wrong type"
    return "is refused"


def _allowed(fault: ErrorDetails) -> str:
    location, kind = fault["loc"], fault["type"]
    if kind == "extra_forbidden":
        model: type[BaseModel] = StackConfig if len(location) == 1 else AgentSettings
        if str(location[0]) in SECTIONS:
            model = SECTIONS[str(location[0])][0]
        elif location[0] == "keys":
            model = KeyRate if "rate" in location else KeySettings
        return ", ".join(field.alias or name for name, field in model.model_fields.items())
    described = _description(location)
    return described or _message(fault)


def _message(fault: ErrorDetails) -> str:
    return fault["msg"].removeprefix("Value error, ")


def _description(location: Sequence[int | str]) -> str:
    """What the field at this place takes."""
    if "[key]" in location:
        return "a name of a-z, 0-9 and -, at most 63 long, that begins and ends with a letter or digit"
    key = str(location[0])
    if key == "daily_api_key":
        return f"{daily.API_KEY}, of at least 8 characters"
    if key == "keys":
        return KEYS if len(location) < 3 else KEY_FIELDS.get(str(location[2]), "")
    if key in SECTIONS:
        fields = SECTIONS[key][1]
        return (
            fields.get(str(location[1]), "") if len(location) > 1 else f"a mapping with {', '.join(fields)}"
        )
    if key == "agents" and len(location) <= 2:
        return "at least one agent, each as `name: {bot: path/to/bot.py}`"
    name = str(location[2]) if key == "agents" else key
    if name == "env" and len(location) > 3:
        return "the name of an environment variable (letters, digits and _), never a value"
    if name == "env":
        return "a list of names of environment variables"
    if name == "arguments":
        return "a list of texts, the bot's command line"
    if name == "transports":
        return f"a list of at least one of {', '.join(get_args(TransportName))}"
    model = AgentSettings if key == "agents" else StackConfig
    for field_name, field in model.model_fields.items():
        if name not in (field_name, field.alias):
            continue
        choices = get_args(field.annotation)
        if choices and all(isinstance(choice, str) for choice in choices):
            return ", ".join(choices)
        if field.annotation in (int, float):
            return _range(field.annotation, field.metadata)
        if field.annotation is Path:
            return "a path"
    return ""


def _range(kind: type, metadata: Sequence[Any]) -> str:
    """`a whole number, 1 to 65535`, from the constraints that the field itself has."""
    noun = "a whole number" if kind is int else "a number"
    lowest = next((f"{one.ge:g} to" for one in metadata if hasattr(one, "ge")), None)
    above = next((f"above {one.gt:g} and up to" for one in metadata if hasattr(one, "gt")), None)
    highest = next((one.le for one in metadata if hasattr(one, "le")), None)
    return f"{noun}, {lowest or above} {highest:g}" if highest is not None and (lowest or above) else noun
