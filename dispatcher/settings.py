"""Every setting that the dispatcher reads, and the only place where it reads its environment.

Stacks build a dispatcher's environment from the same classes (`Settings.to_environment`), so a setting
that exists in one and not in the other cannot happen.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from dispatcher.fly_tokens import FlyTokens
from dispatcher.fly_tokens import fly_authorization as fly_authorization
from dispatcher.keys import AgentName, HostName, Keys, Origin
from dispatcher.placements import ContainerPlacement as ContainerPlacement
from dispatcher.placements import FlyPlacement, PlacementName, PlacementSettings, ProcessPlacement

ENVIRONMENT_PREFIX = "SWITCHBOARD_"
IMAGES_VARIABLE = f"{ENVIRONMENT_PREFIX}IMAGES"

SECRET_SETTINGS = frozenset(
    {"secrets", "database_url", "turn_secret", "daily_api_key", "daily_webhook_secret", "fly_api_token"}
)
"""Never written down: what is signed or asked with, and the URL that may have a password in it."""

TransportName = Literal["webrtc", "daily"]
DailyProperty = Literal["enable_dialout", "enable_recording", "exp"]
LogLevel = Literal["debug", "info", "warning", "error"]
BotLogLevel = Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]
"""Loguru's names, with which Pipecat logs."""
LogFormat = Literal["text", "json"]


def _not_ours(name: str) -> str:
    if name.upper().startswith(ENVIRONMENT_PREFIX):
        raise ValueError(
            f"{name!r} is refused; allowed: a name that does not begin with {ENVIRONMENT_PREFIX}, "
            "as the dispatcher's own do, secrets among them"
        )
    return name


EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_not_ours)]
Image = Annotated[str, Field(min_length=1, max_length=512)]
"""An image's reference."""
TurnUrl = Annotated[
    str, Field(pattern=r"^turns?:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(\?transport=(udp|tcp))?$")
]
"""RFC 7065."""

MIN_SECRET_LENGTH = 32
"""Characters. HS256 wants a key of at least 256 bits (RFC 7518, 3.2)."""


ADDRESS = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?(?P<path>(/[A-Za-z0-9._~/-]*)?)"
)
"""A web server's: no user, no query and no fragment, which nothing could be put behind."""

SENDABLE = re.compile(r"[!-~]+( +[!-~]+)*")
"""A secret that a header takes. With spaces in it, because `fly tokens create` prints `FlyV1 fm2_…`."""

DRAIN_SECONDS = 5.0
"""How long a dispatcher that others reach goes on answering: a load balancer that asks every second or two
has seen by then that it is not ready."""

STORES = ("postgresql://", "postgresql+psycopg://", "sqlite:///")


class AgentSettings(BaseModel):
    """A deployed, named bot: its file, the size of its machine, and its limits."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    bot: Path
    """The bot file: a Python file with `async def bot(runner_args)`. Where machines are containers, its path
    in the image."""
    image: Image | None = None
    """The image that its machines run where they are containers; name it by its digest, so that what runs is
    what was tested."""
    transports: tuple[TransportName, ...] = Field(default=("webrtc",), min_length=1)
    """The transports that a client may ask for; the first is the default."""
    daily_allowed_properties: tuple[DailyProperty, ...] = ()
    """Properties that a start request's `dailyRoomProperties` may have besides what anybody may ask for:
    recording and dial-out cost extra on the account, and `exp` closes the room before its session's end."""
    cpu: float = Field(default=1.0, gt=0, le=64)
    """vCPUs of one machine."""
    memory_mb: int = Field(default=1024, ge=256, le=131072)
    """Memory of one machine, in MiB. An idle Pipecat bot with Silero takes about 150 MiB."""
    env: tuple[EnvironmentName, ...] = ()
    """Names of environment variables that are handed to the bot; it sees no others of the dispatcher's."""
    log_level: BotLogLevel | None = None
    """The level of its bots' logs, as loguru has them; by default the dispatcher's own."""
    arguments: tuple[str, ...] = ()
    """The bot's own command line: what the development runner would be given after the bot file's name."""
    python: Path | None = None
    """The interpreter of its machines where they are processes; by default the dispatcher's."""
    max_sessions: int = Field(default=10, ge=1, le=100_000)
    """Sessions of this agent that may live at the same time."""
    max_queued: int = Field(default=100, ge=0, le=10_000)
    """Callers who may wait for one of these, beyond them; 0 for no queue."""
    max_queue_seconds: float = Field(default=600.0, ge=0, le=3600)
    """Longest wait that a caller may ask for."""
    start_timeout_seconds: float = Field(default=30.0, ge=1, le=600)
    """From admission (without a queue: the start request) until the machine can take its client."""
    max_start_delay_seconds: float = Field(default=5.0, ge=0, le=600)
    """Longest wait for a machines API's rate: a start that would wait longer is refused at once, so that all
    others are served soon. A caller's own `queue` counts where it is longer."""
    client_timeout_seconds: float = Field(default=60.0, ge=1, le=3600)
    """From a machine that can take its client until the client is there."""
    idle_timeout_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """Life of a session after its client has left. 300 is how long Pipecat's own pipelines idle."""
    max_duration_seconds: float = Field(default=7200.0, ge=1, le=86_400)
    """From admission to the forced end. 7200 is Pipecat Cloud's default."""
    placements: tuple[PlacementName, ...] = ()
    """Placements of its machines, in the order in which they are asked; by default all."""


class IceServer(BaseModel):
    """A STUN or TURN server, in the shape of a browser's RTCIceServer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class Settings(BaseSettings):
    """The dispatcher's settings, read from `SWITCHBOARD_…` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    """The address to bind. Anything but loopback needs `keys`."""
    port: int = Field(default=7860, ge=1, le=65535)
    """The TCP port to bind. 7860 is the port of Pipecat's development runner."""
    public_url: str | None = None
    """The URL under which clients reach the dispatcher, if not `http://host:port`. It has no path: the page
    and Pipecat's clients ask for what they need at the root."""
    machine_url: str | None = None
    """The URL under which machines reach a dispatcher, if not `http://host:port`; it may have a path. With
    several of them it leads to any: a machine whose dispatcher dies goes on with another."""
    machine_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks that only machines are in. Their addresses may open a machine's channel, and nothing else."""
    data_dir: Path = Path(".switchboard/dispatcher")
    """The directory of the store, the machines' directories and the signing secret."""
    database_url: str | None = Field(default=None, repr=False)
    """URL of the store: `postgresql://…` with libpq's parameters, for several dispatchers on one store, or
    `sqlite:///path`. By default SQLite in `data_dir`."""
    secrets: tuple[SecretStr, ...] = Field(default=(), max_length=2)
    """Secrets that machine and session tokens are signed with: the first signs, both are accepted. By
    default one that is made and kept in `data_dir`; dispatchers that share a database must share their
    secrets too."""
    log_level: LogLevel = "info"
    images: dict[AgentName, Image] = {}
    """Agent → the image of its machines; goes before the agent's own `image`. A stack gives the images here:
    it knows them last, and a plan shows the rest of the agents."""
    images_file: Path | None = None
    """A file with agents' images, as `images` has them; goes before that. It may change at any time, and
    is used once the placements have the images."""
    agents: dict[AgentName, AgentSettings] = Field(min_length=1)
    """Name → agent."""
    max_sessions: int | None = Field(default=None, ge=1, le=1_000_000)
    """Sessions of all agents that may live at the same time; by default only the agents' own limits hold."""
    placements: dict[PlacementName, PlacementSettings] = Field(
        default={"process": ProcessPlacement(provider="process")}, min_length=1
    )
    """Name → placement, in the order in which they are asked for machines."""
    default_agent: str | None = None
    """The agent of `POST /start`; by default the first of `agents`."""
    keys: Keys = ()
    """Keys that callers send as `Authorization: Bearer`; none are needed on loopback."""
    allowed_origins: tuple[Origin, ...] = ()
    """Sites whose pages may call without a key, beside those of this machine (`http://localhost:5173`); with
    keys each key names its own."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Other names under which the dispatcher is called, such as a tunnel's or `host.docker.internal`."""
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=60)
    """Time between two reports of a machine over its channel."""
    unresponsive_seconds: float = Field(default=120.0, ge=30, le=86_400)
    """Longest time without a report of the machine of a bot that was ready: it is ended then, although its
    provider says that it runs."""
    ending_seconds: float = Field(default=60.0, ge=0, le=3600)
    """Longest time that a session which is over counts against `max_sessions`, because its machine is not
    known to be gone; 0 to count sessions alone."""
    call_timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    """Limit on a client's request to a running bot."""
    ice_servers: tuple[IceServer, ...] = ()
    """STUN and TURN servers for bots and their clients."""
    turn_urls: tuple[TurnUrl, ...] = ()
    """TURN servers that share `turn_secret`: each session gets a credential of its own for them."""
    turn_secret: SecretStr | None = None
    """The secret that these servers (coturn with `use-auth-secret`) check the credentials with."""
    daily_api_key: SecretStr | None = Field(default=None, min_length=8)
    """The API key of the Daily domain in whose rooms sessions over `daily` meet. It reaches no client and no
    machine."""
    daily_domain: str | None = Field(default=None, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """The domain's name: its rooms are at `https://<name>.daily.co/…`."""
    daily_domain_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The domain's id, with which tokens are signed here; without it Daily is asked for two of them at each
    start, before the session is written."""
    daily_webhook_secret: SecretStr | None = None
    """The secret that Daily signs its webhooks with, in base64; by default it follows from the API key."""
    daily_api_url: str = "https://api.daily.co/v1"
    """Daily's REST API; `http://` on loopback only, because the key goes with every call."""
    keep_sessions_days: float = Field(default=30.0, ge=1, le=3650)
    """Time that sessions are kept after their end, with their timelines. Not less than a day: for so long an
    `Idempotency-Key` stands for its session."""
    fly_api_token: SecretStr | None = None
    """Token for machines at Fly: a deploy token of the app, as `fly tokens create` prints it; for several
    apps a JSON object of app → token. All placements at Fly share it."""
    fly_api_url: str = Field(default="https://api.machines.dev", pattern=r"^https?://[^/@?#]+$")
    """Fly's Machines API. From inside a private network at Fly it is `http://_api.internal:4280` too."""
    max_start_body_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    """Size of a start's request. It is kept until the session ends, and read on the event loop."""
    drain_seconds: float | None = Field(default=None, ge=0, le=60)
    """How long to go on answering after being told to exit, so that load balancers send callers elsewhere: by
    default 0 on loopback, where nobody balances, and 5 elsewhere."""
    process_templates: bool = True
    """Fork machines that are processes from a template: quick, at 150 MB for each bot file."""
    process_isolation: Literal["auto", "off", "required"] = "auto"
    """Keep machines that are processes from each other and from `data_dir`: `auto` with what this host has,
    `required` or no such machine starts."""
    keep_machine_dirs: int = Field(default=100, ge=0)
    """Number of directories of machines that are gone that are kept, for their logs."""
    log_file: Path | None = None
    """Where a dispatcher that serves writes its log, in the place of stderr: 10 MiB, and two older files."""
    log_format: LogFormat | None = None
    """Format of log lines; by default text on loopback, where a person reads them, and JSON elsewhere, where
    a collector does."""

    @field_validator("agents")
    @classmethod
    def _with_images(
        cls, agents: dict[AgentName, AgentSettings], found: ValidationInfo
    ) -> dict[AgentName, AgentSettings]:
        # A refused `images` is not in here, and has an error of its own.
        images: dict[AgentName, Image] = found.data.get("images", {})
        for name in images:
            if name not in agents:
                raise ValueError(f"images: '{name}' is not an agent; allowed: {', '.join(agents)}")
        with_images = {
            name: agents[name].model_copy(update={"image": image}) for name, image in images.items()
        }
        return {**agents, **with_images}

    @field_validator("public_url", "machine_url")
    @classmethod
    def _reachable(cls, url: str | None, field: ValidationInfo) -> str | None:
        if url is None:
            return None
        address = ADDRESS.fullmatch(url)
        has_path = address is not None and address["path"] not in ("", "/")
        if address is None or (has_path and field.field_name == "public_url"):
            # What stands before an @ may be a password.
            shown = "a URL with an @" if "@" in url else repr(url)
            path = ", with a path or without" if field.field_name == "machine_url" else ""
            raise ValueError(f"{shown} is not accepted; allowed: http(s)://host or http(s)://host:port{path}")
        return url

    @field_validator("daily_api_url")
    @classmethod
    def _safe_for_the_key(cls, url: str) -> str:
        address = urlsplit(url) if ADDRESS.fullmatch(url) else None
        if address is None or not (address.scheme == "https" or is_loopback(address.hostname or "")):
            shown = "a URL with an @" if "@" in url else repr(url)
            raise ValueError(f"{shown} is not accepted; allowed: https://host/path, or http:// on loopback")
        return url

    @field_validator("daily_api_key", "daily_webhook_secret", "fly_api_token", "turn_secret")
    @classmethod
    def _can_be_sent(cls, secret: SecretStr | None) -> SecretStr | None:
        # An HTTP client says the whole header where it refuses one, and so the secret that is in it.
        if secret is not None and not SENDABLE.fullmatch(secret.get_secret_value()):
            raise ValueError(
                "it is empty or has other characters than visible ASCII; allowed: these, with spaces, "
                "and no line break at its end"
            )
        return secret

    @field_validator("daily_webhook_secret")
    @classmethod
    def _is_base64(cls, secret: SecretStr | None) -> SecretStr | None:
        try:
            known = secret is None or base64.b64decode(secret.get_secret_value(), validate=True)
        except binascii.Error:
            known = False
        if not known:
            raise ValueError("it is not base64; allowed: `hmac` of the webhook, as Daily gives it")
        return secret

    @field_validator("secrets")
    @classmethod
    def _secrets_are_long(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < MIN_SECRET_LENGTH for secret in secrets):
            raise ValueError(f"a secret must be at least {MIN_SECRET_LENGTH} characters long")
        return secrets

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.default_agent is not None and self.default_agent not in self.agents:
            names = ", ".join(self.agents)
            raise ValueError(f"default_agent '{self.default_agent}' is not an agent; allowed: {names}")
        for name, agent in self.agents.items():
            for placement in agent.placements:
                if placement not in self.placements:
                    allowed = ", ".join(self.placements)
                    raise ValueError(f"agent '{name}': '{placement}' is not a placement; allowed: {allowed}")
        if self.database_url is not None and not _is_store(self.database_url):
            # Not the value: it may have a password in it.
            raise ValueError(
                f"database_url: allowed is a URL that begins with {' or '.join(STORES)}, "
                "with %40, %2F and %3A for @, / and : in its password"
            )
        processes = [name for name, of in self.placements.items() if of.provider == "process"]
        if len(processes) > 1:
            names = ", ".join(processes)
            raise ValueError(f"placements {names} are all this host; allowed: one placement of 'process'")
        for name, of in self.placements.items():
            if isinstance(of, FlyPlacement):
                self._check_tokens(name, of)
        for name, agent in self.agents.items():
            for placement in agent.placements or self.placements:
                in_file = self.images_file is not None and self.placements[placement].provider == "container"
                if self.placements[placement].provider != "process" and agent.image is None and not in_file:
                    raise ValueError(
                        f"agent '{name}': image is missing, and placement '{placement}' runs images; "
                        "allowed: an image's reference, such as registry.example/bot@sha256:…"
                    )
                if isinstance(of := self.placements[placement], FlyPlacement):
                    try:
                        of.check(agent.image or "", agent.cpu, agent.memory_mb)
                    except ValueError as error:
                        raise ValueError(f"agent '{name}' at placement '{placement}': {error}") from error
        for key in self.keys:
            for agent in key.agents:
                if agent not in self.agents:
                    allowed = ", ".join(self.agents)
                    raise ValueError(f"key '{key.name}': '{agent}' is not an agent; allowed: {allowed}")
        if not self.keys and not is_loopback(self.host):
            raise ValueError(
                f"host '{self.host}' is reachable from other machines, so keys must be set; "
                "without keys only a loopback address is allowed (127.0.0.1, ::1, localhost)"
            )
        if self.keys and self.allowed_origins:
            raise ValueError(
                f"allowed_origins names {self.allowed_origins[0]}, and keys are set; allowed: no "
                "allowed_origins, and the site in the origins of the key that its pages use"
            )
        if bool(self.turn_urls) != (self.turn_secret is not None):
            missing = "turn_secret" if self.turn_urls else "turn_urls"
            raise ValueError(f"{missing} is missing; allowed: both turn_urls and turn_secret, or none")
        if (self.daily_api_key is None) != (self.daily_domain is None):
            missing = "daily_api_key" if self.daily_api_key is None else "daily_domain"
            raise ValueError(f"{missing} is missing; allowed: both daily_api_key and daily_domain, or none")
        for name, agent in self.agents.items():
            if "daily" in agent.transports and self.daily_api_key is None:
                raise ValueError(
                    f"agent '{name}' offers the transport 'daily', for which daily_api_key and daily_domain "
                    "must be set; without them only 'webrtc' is allowed"
                )
        if not self.secrets and self.has_replicas:
            raise ValueError(
                "secrets must be set with this database_url, since all dispatchers on one database must know "
                f"the same; allowed: one or two of at least {MIN_SECRET_LENGTH} characters"
            )
        return self

    def _check_tokens(self, name: str, placement: FlyPlacement) -> None:
        """Check that every app of a placement has a token.

        Raises:
            ValueError: There is none; it says for which app.
        """
        if self.fly_api_token is None:
            raise ValueError(
                f"fly_api_token is missing, and placement '{name}' is at Fly; "
                "allowed: a deploy token of its apps"
            )
        try:
            tokens = FlyTokens.parse(self.fly_api_token.get_secret_value())
        except ValueError as error:
            raise ValueError(f"fly_api_token {error}") from error
        for app in (*placement.apps, *placement.draining_apps):
            if not tokens.of(app):
                raise ValueError(
                    f"fly_api_token has none for app '{app}' of placement '{name}'; "
                    "allowed: one token, or one for each app"
                )

    @property
    def start_agent(self) -> str:
        """The agent of `POST /start`."""
        return self.default_agent or next(iter(self.agents))

    @property
    def drained_seconds(self) -> float:
        """How long to go on answering after being told to exit."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 0.0 if is_loopback(self.host) else DRAIN_SECONDS

    @property
    def log_lines(self) -> LogFormat:
        """Format of log lines."""
        return self.log_format or ("text" if is_loopback(self.host) else "json")

    @property
    def url(self) -> str:
        """The URL under which clients reach the dispatcher, without a slash at the end."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def has_replicas(self) -> bool:
        """True if several dispatchers may share the store."""
        return (self.database_url or "").startswith("postgresql")

    @property
    def has_ice_credentials(self) -> bool:
        """True if a password of a TURN server is among `ice_servers`."""
        return any(server.credential for server in self.ice_servers)

    @property
    def store_url(self) -> str | URL:
        """The store's SQLAlchemy URL."""
        if self.database_url:
            # Without a driver's name SQLAlchemy would take another one.
            return self.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
        # Built from its parts: a path may hold what means something in the text of a URL.
        database = str(self.data_dir.resolve() / "switchboard.sqlite")
        return URL.create("sqlite", database=database)

    def to_environment(self) -> dict[str, str]:
        """The environment variables that give a dispatcher these settings, without the secret ones.

        Only what was set is written, so a default can change with the code. `SECRET_SETTINGS` are left out,
        and `ice_servers` with a credential: this goes into a stack's state. They reach a dispatcher by
        reference, from its cloud's secret store.
        """
        dumped: dict[str, Any] = {}
        secret = SECRET_SETTINGS | ({"ice_servers"} if self.has_ice_credentials else set())
        for name in sorted(self.model_fields_set - secret):
            value = getattr(self, name)
            if name == "keys":
                value = [key.model_dump(mode="json", exclude_unset=True) for key in value]
            elif name == "agents":
                value = {
                    key: agent.model_dump(
                        mode="json",
                        exclude_unset=True,
                        exclude={"image"} if key in self.images or self.images_file else None,
                    )
                    for key, agent in value.items()
                }
            elif name == "placements":
                value = {
                    key: placement.model_dump(mode="json", exclude_unset=True)
                    for key, placement in value.items()
                }
            elif name == "machine_networks":
                value = [str(network) for network in value]
            elif name == "ice_servers":
                value = [server.model_dump(mode="json", exclude_none=True) for server in value]
            if value is not None:
                dumped[name] = value
        return variables(ENVIRONMENT_PREFIX, dumped)


def variables(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables from which pydantic-settings reads these values; collections are JSON."""
    return {
        prefix + name.upper(): json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)
        for name, value in values.items()
    }


def _is_store(url: str) -> bool:
    if not url.startswith(STORES):
        return False
    try:
        host = make_url(url).host
    except (ArgumentError, ValueError):
        return False
    return "@" not in (host or "")


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a server that is bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
