"""Every setting of the dispatcher, and the only place that reads its environment.

Stacks build a dispatcher's environment from the same classes (`Settings.to_environment`), so a setting cannot
exist on one side only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from dispatcher.addresses import ADDRESS, is_loopback
from dispatcher.fields import ENVIRONMENT_PREFIX, Allowed, ConfigModel
from dispatcher.header_secret import HeaderSecret
from dispatcher.keys import AgentName, HostName, Keys, Origin
from dispatcher.machines.registry import AnyPlacement, default_placements, providers
from dispatcher.machines.settings import PlacementName, PlacementSettings
from dispatcher.plugins import RegistryError, SharedSettings, setting
from dispatcher.reserve.settings import ReserveSettings
from dispatcher.standard_webhooks import OptionalWebhookSecret as OptionalWebhookSecret
from dispatcher.standard_webhooks import OptionalWebhookUrl as OptionalWebhookUrl
from dispatcher.standard_webhooks import WebhookSecret, WebhookUrl
from dispatcher.telephony.settings import SECRETS as PHONE_SECRETS
from dispatcher.telephony.settings import AgentPhone, PhoneAccounts
from dispatcher.transports.registry import transports
from dispatcher.transports.settings import IceServer

S = TypeVar("S", bound=SharedSettings)

IMAGES_VARIABLE = f"{ENVIRONMENT_PREFIX}IMAGES"

if TYPE_CHECKING:
    from sqlalchemy import URL

    TransportName = str
else:
    TransportName = Literal[tuple(transports().names)]
DailyProperty = Literal["enable_dialout", "enable_recording", "exp"]
LogLevel = Literal["debug", "info", "warning", "error"]
BotLogLevel = Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]
"""Loguru's level names, which Pipecat uses."""
LogFormat = Literal["text", "json"]


def _not_ours(name: str) -> str:
    if name.upper().startswith(ENVIRONMENT_PREFIX):
        raise ValueError(
            f"{name!r} is refused; allowed: a name that does not begin with {ENVIRONMENT_PREFIX}, "
            "as the dispatcher's own do, secrets among them"
        )
    return name


EnvironmentName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
    AfterValidator(_not_ours),
    Allowed("the name of an environment variable (letters, digits and _), never a value"),
]
Image = Annotated[str, Field(min_length=1, max_length=512)]
"""An image's reference."""
TurnUrl = Annotated[
    str, Field(pattern=r"^turns?:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(\?transport=(udp|tcp))?$")
]
"""URL of a TURN server (RFC 7065)."""

MIN_SECRET_LENGTH = 32
"""Least characters of a secret. HS256 needs a key of at least 256 bits (RFC 7518, 3.2)."""


DRAIN_SECONDS = 5.0
"""Default of `drain_seconds` off loopback: a load balancer that probes every second or two has seen by then
that the dispatcher is not ready."""

STORES = ("postgresql://", "postgresql+psycopg://", "sqlite:///")


class AgentSettings(ConfigModel):
    """A deployed, named bot: its file, the size of its machine, and its limits."""

    bot: Path
    """The bot file: a Python file with `async def bot(runner_args)`. Where machines are containers, its path
    in the image."""
    image: Image | None = None
    """The image that its machines run where they are containers; name it by its digest, so that what runs is
    what was tested."""
    transports: tuple[TransportName, ...] = Field(default=("webrtc",), min_length=1)
    """The transports that a client may ask for; the first is the default."""
    daily_allowed_properties: tuple[DailyProperty, ...] = ()
    """Properties that a start request's `dailyRoomProperties` may have besides those that anybody may ask
    for: recording and dial-out cost extra on the account, and `exp` closes the room before its session's end.
    """
    cpu: float = Field(default=1.0, gt=0, le=64)
    """vCPUs of one machine. A machine that is a process gets CPU time for its longest session at this
    rate."""
    memory_mb: int = Field(default=1024, ge=256, le=131072)
    """Memory of one machine, in MiB. An idle Pipecat bot with Silero takes about 150 MiB. What a process
    allocates beyond it fails (Linux)."""
    env: Annotated[tuple[EnvironmentName, ...], Allowed("a list of names of environment variables")] = ()
    """Names of environment variables that are passed to the bot; it sees no others of the dispatcher's."""
    log_level: BotLogLevel | None = None
    """The level of its bots' logs, in loguru's names; by default the dispatcher's own. A bot that adds a
    handler to loguru sets that handler's level itself."""
    arguments: Annotated[tuple[str, ...], Allowed("a list of texts, the bot's command line")] = ()
    """The bot's own command line: the arguments that the development runner would get after the bot file's
    name."""
    python: Path | None = None
    """The interpreter of its machines where they are processes; by default the dispatcher's."""
    max_sessions: int = Field(default=10, ge=1, le=100_000)
    """Sessions of this agent that may live at the same time."""
    max_queued: int = Field(default=100, ge=0, le=10_000)
    """Callers who may wait for a slot at the same time; 0 for no queue."""
    max_queue_seconds: float = Field(default=600.0, ge=0, le=3600)
    """Longest wait in the queue that a caller may ask for."""
    start_timeout_seconds: float = Field(default=30.0, ge=1, le=600)
    """Limit on a start: from admission (without a queue: the start request) until the machine can take its
    client."""
    max_start_delay_seconds: float = Field(default=5.0, ge=0, le=600)
    """Longest wait for a machines API's rate limit. A start that would wait longer is refused at once, so
    that all others are served soon. A caller's own `queue` replaces it where that is longer."""
    client_timeout_seconds: float = Field(default=60.0, ge=1, le=3600)
    """Limit on the wait for the client, once the machine can take it."""
    idle_timeout_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """Time that a session goes on after its client has left. 300 is the idle timeout of Pipecat's own
    pipelines."""
    max_duration_seconds: float = Field(default=7200.0, ge=1, le=86_400)
    """Limit on a session, from admission to the forced end. 7200 is Pipecat Cloud's default."""
    placements: tuple[PlacementName, ...] = ()
    """Placements of its machines, in the order in which they are asked; by default all."""
    reserve: ReserveSettings | None = None
    """Machines that wait for its sessions, with its bot file imported; by default none. They count against
    `max_sessions`: no more wait than sessions may still begin."""
    phone: AgentPhone = AgentPhone()
    """Sounds and words for its callers by phone, over the transport `websocket`. See docs/phone.md."""


class CoreSettings(BaseSettings):
    """The settings that belong to no provider and no transport."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
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
    several dispatchers it may lead to any: a machine whose dispatcher dies goes on with another."""
    machine_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks that contain only machines. Their addresses may open a machine's channel, and nothing else."""
    data_dir: Path = Path(".switchboard/dispatcher")
    """The directory of the store, the machines' directories and the signing secret."""
    database_url: str | None = Field(default=None, repr=False)
    """URL of the store: `postgresql://…` with libpq's parameters, for several dispatchers on one store, or
    `sqlite:///path`. By default SQLite in `data_dir`."""
    secrets: tuple[SecretStr, ...] = Field(default=(), max_length=2)
    """Secrets that sign machine and session tokens: the first signs, both are accepted. By default one that
    is generated and kept in `data_dir`; dispatchers that share a database must share their secrets too."""
    log_level: LogLevel = "info"
    """Level of the log lines of the dispatcher, and of its bots unless their agent has its own."""
    images: dict[AgentName, Image] = {}
    """Agent → the image of its machines; takes precedence over the agent's own `image`. A stack gives the
    images here: it learns them last, and a plan shows the rest of the agents."""
    images_file: Path | None = None
    """A file with agents' images and bot files, as a JSON object: agent → `image`, `bot`, and `placements`,
    which is placement → image, for placements with a registry of their own. It takes precedence over
    `images`, may change at any time, and is used once the placements have the images."""
    agents: dict[AgentName, AgentSettings] = Field(min_length=1)
    """Name → agent."""
    max_sessions: int | None = Field(default=None, ge=1, le=1_000_000)
    """Sessions of all agents that may live at the same time; by default only the agents' own limits hold."""
    placements: dict[PlacementName, AnyPlacement] = Field(default_factory=default_placements, min_length=1)
    """Name → placement, in the order in which they are asked for machines."""
    default_agent: str | None = None
    """The agent of `POST /start`; by default the first of `agents`."""
    keys: Keys = ()
    """Keys that callers send as `Authorization: Bearer`; none are needed on loopback."""
    allowed_origins: tuple[Origin, ...] = ()
    """Sites whose pages may call without a key, beside those of this machine (`http://localhost:5173`); with
    keys each key names its own."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Further names under which the dispatcher is called, such as a tunnel's or `host.docker.internal`."""
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=60)
    """Interval between a machine's heartbeats over its channel."""
    unresponsive_seconds: float = Field(default=120.0, ge=30, le=86_400)
    """Longest silence of a machine whose bot was ready: after that the session is ended, even if the provider
    says that the machine runs."""
    ending_seconds: float = Field(default=60.0, ge=0, le=3600)
    """Longest time that an ended session counts against `max_sessions` because its machine is not known to be
    gone; 0 to count only live sessions."""
    call_timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    """Limit on a client's request to a running bot."""
    ice_servers: tuple[IceServer, ...] = ()
    """STUN and TURN servers for bots and their clients."""
    turn_urls: tuple[TurnUrl, ...] = ()
    """TURN servers that share `turn_secret`: each session gets its own credential for them."""
    turn_secret: HeaderSecret | None = None
    """The secret with which these servers (coturn with `use-auth-secret`) check the credentials."""
    phone: PhoneAccounts = PhoneAccounts()
    """Accounts at phone carriers, without their secrets."""
    twilio_auth_token: SecretStr | None = None
    """Auth token of the Twilio account, with which its webhooks are signed."""
    plivo_auth_token: SecretStr | None = None
    """Auth token of the Plivo account, with which its webhooks are signed."""
    exotel_password: SecretStr | None = None
    """Password in the URL of Exotel's Voicebot applet."""
    webhook_url: WebhookUrl | None = None
    """The URL of your back end that is told what becomes of sessions; see docs/webhooks.md."""
    webhook_secrets: tuple[WebhookSecret, ...] = Field(default=(), max_length=2)
    """Secrets that sign these webhooks. With two, each message has both signatures: the receiver may know
    either."""
    webhook_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks that are not public in which `webhook_url` may be, such as that of a cluster; by default it
    must be at a public address."""
    keep_sessions_days: float = Field(default=30.0, ge=1, le=3650)
    """Time that sessions are kept after their end, with their timelines. At least a day: an `Idempotency-Key`
    is valid for so long."""
    max_start_body_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    """Limit on a start request's body. It is kept until the session ends, and parsed on the event loop."""
    drain_seconds: float | None = Field(default=None, ge=0, le=60)
    """Time that the dispatcher goes on answering after it is told to exit, so that load balancers send
    callers elsewhere; by default 0 on loopback, where there is no load balancer, and 5 elsewhere."""
    keep_machine_dirs: int = Field(default=100, ge=0)
    """Number of directories of gone machines that are kept, for their logs."""
    log_file: Path | None = None
    """File for the log of a dispatcher that serves, instead of stderr: 10 MiB, and two older files."""
    log_format: LogFormat | None = None
    """Format of log lines; by default text on loopback, for a person, and JSON elsewhere, for a collector."""

    @field_validator("agents")
    @classmethod
    def _with_images(
        cls, agents: dict[AgentName, AgentSettings], found: ValidationInfo
    ) -> dict[AgentName, AgentSettings]:
        # A refused `images` is missing here and has its own error.
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
            # Text before an @ may be a password.
            shown = "a URL with an @" if "@" in url else repr(url)
            path = ", with a path or without" if field.field_name == "machine_url" else ""
            raise ValueError(f"{shown} is not accepted; allowed: http(s)://host or http(s)://host:port{path}")
        return url

    @field_validator("secrets")
    @classmethod
    def _secrets_are_long(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < MIN_SECRET_LENGTH for secret in secrets):
            raise ValueError(f"a secret must be at least {MIN_SECRET_LENGTH} characters long")
        return secrets

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_agent is not None and self.default_agent not in self.agents:
            names = ", ".join(self.agents)
            raise ValueError(f"default_agent '{self.default_agent}' is not an agent; allowed: {names}")
        for name, agent in self.agents.items():
            for placement in agent.placements:
                if placement not in self.placements:
                    allowed = ", ".join(self.placements)
                    raise ValueError(f"agent '{name}': '{placement}' is not a placement; allowed: {allowed}")
        if self.database_url is not None and not _is_store(self.database_url):
            # Without the value: it may contain a password.
            raise ValueError(
                f"database_url: allowed is a URL that begins with {' or '.join(STORES)}, "
                "with %40, %2F and %3A for @, / and : in its password"
            )
        for name, of in self.placements.items():
            alike = [other for other, one in self.placements.items() if one.provider == of.provider]
            if of.only_one and len(alike) > 1:
                raise ValueError(
                    f"placements {', '.join(alike)} {of.only_one}; allowed: one placement of '{of.provider}'"
                )
            for agent in of.images:
                if agent not in self.agents:
                    allowed = ", ".join(self.agents)
                    raise ValueError(
                        f"placement '{name}': images: '{agent}' is not an agent; allowed: {allowed}"
                    )
            of.check(name, self.shared_of(of))
        for name, agent in self.agents.items():
            if agent.reserve is not None and agent.reserve.budget is not None:
                raise ValueError(
                    f"agent '{name}': reserve: budget: {agent.reserve.budget:g} is refused, as the "
                    "dispatcher knows no prices yet; allowed: none, and a max"
                )
            for placement in agent.placements or self.placements:
                of = self.placements[placement]
                in_file = self.images_file is not None and of.takes_images_file
                there = agent.model_copy(update={"image": of.images.get(name, agent.image)})
                if of.needs_image and there.image is None and not in_file:
                    raise ValueError(
                        f"agent '{name}': image is missing, and placement '{placement}' runs images; "
                        "allowed: an image's reference, such as registry.example/bot@sha256:…"
                    )
                if agent.reserve is not None and not of.has_reserve:
                    known = providers().importable()
                    able = sorted(name for name, one in known.items() if one.has_reserve)
                    raise ValueError(
                        f"agent '{name}': reserve is refused, and placement '{placement}' is of "
                        f"'{of.provider}', which has none; allowed: placements of {', '.join(able)}"
                    )
                try:
                    of.check_agent(name, there)
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
        if (self.webhook_url is None) == bool(self.webhook_secrets):
            missing = "webhook_secrets" if self.webhook_url else "webhook_url"
            raise ValueError(f"{missing} is missing; allowed: both webhook_url and webhook_secrets, or none")
        self._check_transports()
        if lacks := self.phone.missing(self.phone_secrets):
            raise ValueError(lacks)
        if not self.secrets and self.has_replicas:
            raise ValueError(
                "secrets must be set with this database_url, since all dispatchers on one database must know "
                f"the same; allowed: one or two of at least {MIN_SECRET_LENGTH} characters"
            )
        return self

    def _check_transports(self) -> None:
        """Check that the agents' transports are configured.

        Raises:
            ValueError: One is not; the text says what is missing.
        """
        missing: dict[str, str] = {}
        for name, transport in transports().importable().items():
            shared = self.shared(name, transport.shared)
            transport.check(shared)
            missing[name] = transport.missing(shared)
        for agent, name in ((agent, name) for agent, of in self.agents.items() for name in of.transports):
            if lacks := missing.get(name, f"a package that registers {name}"):
                others = " or ".join(f"'{other}'" for other, of in missing.items() if not of)
                raise ValueError(
                    f"agent '{agent}' offers the transport '{name}', for which {lacks} must be set; "
                    f"without them only {others} is allowed"
                )

    def shared_of(self, placement: PlacementSettings) -> SharedSettings:
        """Return the deployment-wide settings of a placement's provider."""
        return self.shared(placement.provider, placement.shared)

    def shared(self, plugin: str, model: type[S]) -> S:
        """Return the deployment-wide settings of a provider or transport, as the class that it declares."""
        values = {field: getattr(self, setting(plugin, field)) for field in model.model_fields}
        return model.model_construct(**values)

    @property
    def phone_secrets(self) -> dict[str, str]:
        """Setting → value of the carriers' secrets that are set."""
        found: dict[str, SecretStr | None] = {name: getattr(self, name) for name in PHONE_SECRETS}
        return {name: value for name, one in found.items() if one and (value := one.get_secret_value())}

    @property
    def start_agent(self) -> str:
        """The agent of `POST /start`."""
        return self.default_agent or next(iter(self.agents))

    @property
    def drained_seconds(self) -> float:
        """Time that the dispatcher goes on answering after it is told to exit."""
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
        from sqlalchemy import URL  # Here: the stacks read these settings, and have no store.

        # Built from its parts: a path may contain characters that have a meaning in a URL.
        database = str(self.data_dir.resolve() / "switchboard.sqlite")
        return URL.create("sqlite", database=database)

    @classmethod
    def secret_settings(cls) -> frozenset[str]:
        """Return the settings that are never written down: secrets, and the URL that may contain a
        password."""
        secret = {name for name, field in cls.model_fields.items() if _holds_secret(field.annotation)}
        return frozenset(secret | {"database_url"})

    def to_environment(self) -> dict[str, str]:
        """Return the environment variables that give a dispatcher these settings, without the secret ones.

        Only set values are written, so a default can change with the code. `secret_settings` are left out,
        and `ice_servers` with a credential, because this goes into a stack's state. They reach a dispatcher
        by reference, from its cloud's secret store.
        """
        dumped: dict[str, Any] = {}
        secret = self.secret_settings() | ({"ice_servers"} if self.has_ice_credentials else set())
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
            elif name in ("machine_networks", "webhook_networks"):
                value = [str(network) for network in value]
            elif name == "phone":
                value = self.phone.model_dump(mode="json", exclude_unset=True)
            elif name == "ice_servers":
                value = [server.model_dump(mode="json", exclude_none=True) for server in value]
            if value is not None:
                dumped[name] = value
        return variables(ENVIRONMENT_PREFIX, dumped)


def settings_class() -> type[CoreSettings]:
    """Return the class of the dispatcher's settings, including those of the installed plugins.

    Raises:
        RegistryError: Two plugins have a setting of one name.
    """
    of_transports = transports().shared_fields()
    fields = {**of_transports, **providers().shared_fields()}
    ours = CoreSettings.model_fields.keys()
    if taken := sorted((fields.keys() & ours) | (of_transports.keys() & providers().shared_fields().keys())):
        raise RegistryError(f"there are settings {', '.join(taken)} already: rename the plugin")
    made: Any = fields
    return create_model("Settings", __base__=CoreSettings, __module__=__name__, __doc__=_DOC, **made)


def _holds_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_holds_secret(one) for one in get_args(annotation))


def variables(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables from which pydantic-settings reads these values; collections
    are JSON."""
    return {
        prefix + name.upper(): json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)
        for name, value in values.items()
    }


def _is_store(url: str) -> bool:
    if not url.startswith(STORES):
        return False
    # Here: the stacks read these settings, and have no store.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        host = make_url(url).host
    except (ArgumentError, ValueError):
        return False
    return "@" not in (host or "")


_DOC = "The dispatcher's settings, read from `SWITCHBOARD_…` environment variables."

if TYPE_CHECKING:

    class Settings(CoreSettings): ...
else:
    Settings = settings_class()
