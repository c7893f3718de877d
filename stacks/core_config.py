"""The typed keys of a stack's config that are no cloud's own. Clouds' packages know the config as this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    StringConstraints,
    model_validator,
)

from dispatcher.fields import Allowed, ConfigModel
from dispatcher.keys import HostName, Keys, Origin
from dispatcher.machines.settings import PlacementName
from dispatcher.settings import (
    PHONE_SECRETS,
    AgentName,
    AgentSettings,
    LogFormat,
    LogLevel,
    OptionalWebhookSecret,
    OptionalWebhookUrl,
    PhoneAccounts,
    TurnUrl,
)
from stacks.daily_config import DailyConfig
from stacks.ice_config import TURN_URLS_WORDS, IceServerConfig

DEFAULT_CLOUD = "local"

AGENTS_WORDS = "at least one agent, each as `name: {bot: path/to/bot.py}`"
KEYS_WORDS = "a list of the entries that `make key NAME=…` prints"
PLACEMENTS_WORDS = "a mapping of names, each as `name: {cloud: …}` with keys of that cloud's placements"

EXCEPTIONS_WORDS = "a mapping of policies, each as `resource: why it may`, in at least 10 characters"

Justification = Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]

PLAIN_SETTINGS = (
    *("allowed_origins", "allowed_hosts"),
    *("keep_sessions_days", "heartbeat_seconds", "call_timeout_seconds", "unresponsive_seconds"),
    "ending_seconds",
    *("process_isolation", "drain_seconds", "max_start_body_bytes"),
)
"""Fields that the dispatcher has under the same names, with the same defaults."""


class PlacementEntry(BaseModel):
    """An entry of `placements`: its cloud, and keys that the cloud's own model checks."""

    model_config = ConfigDict(extra="allow", frozen=True)

    cloud: str
    """Cloud that the bots run on."""

    @property
    def keys(self) -> dict[str, Any]:
        """The keys beside `cloud`, as they are written."""
        return dict(self.__pydantic_extra__ or {})


class CoreConfig(ConfigModel):
    """The keys of a stack's config that are no cloud's own. All paths are absolute."""

    cloud: str = DEFAULT_CLOUD
    """Cloud that the dispatcher runs on, the host."""
    placements: Annotated[dict[PlacementName, PlacementEntry], Allowed(PLACEMENTS_WORDS)] = Field(default={})
    """Places of bots: name → its cloud, and keys of that cloud's placements. A key that is not given comes
    from the cloud's own key. By default the host's cloud is the one placement, under the cloud's name."""
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
    drain_seconds: int = Field(default=5, ge=0, le=20)
    """Time that a dispatcher goes on answering after it is told to exit, so that load balancers send callers
    elsewhere."""
    process_isolation: Literal["auto", "off", "required"] = "auto"
    """Isolation of bots from each other and from the dispatcher's data. `auto` uses what the host offers,
    `required` refuses to start bots without it."""
    ice_servers: Annotated[
        tuple[IceServerConfig, ...],
        Allowed("a list of servers, each with urls, and of TURN with username and credential"),
    ] = ()
    """STUN and TURN servers of your own with fixed credentials, for sessions over `webrtc`. A credential is
    secret: set it by `pulumi config set --path --secret 'switchboard:iceServers[0].credential'`."""
    turn_urls: Annotated[tuple[TurnUrl, ...], Allowed(TURN_URLS_WORDS)] = ()
    """TURN servers of your own (coturn with use-auth-secret). Each session gets a credential of its own, made
    with `turnSecret`."""
    turn_secret: SecretStr = SecretStr("")
    """The static-auth-secret of the servers of `turnUrls`."""
    webhook_url: OptionalWebhookUrl = ""
    """URL of your back end that is told what becomes of sessions. See docs/webhooks.md."""
    webhook_secret: OptionalWebhookSecret = SecretStr("")
    """Secret that signs webhooks: `whsec_` and 24 to 64 random bytes in base64."""
    webhook_previous_secret: OptionalWebhookSecret = SecretStr("")
    """The secret before, while `webhookSecret` is being replaced: messages have the signatures of both."""
    webhook_networks: Annotated[
        tuple[IPvAnyNetwork, ...], Allowed("a list of networks such as 10.0.0.0/16")
    ] = ()
    """Networks that are not public in which `webhookUrl` may be. By default it must be at a public
    address."""
    log_level: LogLevel = "info"
    """Level of the log lines of the dispatcher, and of bots whose agent sets none."""
    log_format: LogFormat = "text"
    """Format of the dispatcher's log lines: `text` for people, `json` for collectors."""
    throwaway: bool = False
    """Allow `make up` and `make down` to delete the stack's data without asking. Otherwise resources that
    hold data are protected."""
    policy_exceptions: Annotated[dict[str, dict[str, Justification]], Allowed(EXCEPTIONS_WORDS)] = Field(
        default={}
    )
    """Exceptions from the policies of `make plan`: policy → resource → why it may. See docs/plan.md."""
    data_dir: Path
    """Directory of store, logs and machines; by default `.switchboard/stacks/<stack>`. It is new, empty, or
    that of an earlier `make up`."""
    daily: DailyConfig = DailyConfig()
    """Daily domain whose rooms sessions over `daily` meet in. See docs/daily.md."""
    daily_api_key: SecretStr = SecretStr("")
    """API key of the Daily domain; by default DAILY_API_KEY of the environment, if an agent offers
    `daily`."""
    daily_webhook_secret: SecretStr = SecretStr("")
    """Secret that Daily signs webhooks with; by default DAILY_WEBHOOK_SECRET of the environment, else derived
    from `dailyApiKey`."""
    phone: PhoneAccounts = PhoneAccounts()
    """Accounts at phone carriers, whose webhooks start sessions over `websocket`. See docs/phone.md."""
    twilio_auth_token: SecretStr = SecretStr("")
    """Auth token of the account `phone.twilioAccountSid`."""
    plivo_auth_token: SecretStr = SecretStr("")
    """Auth token of the account `phone.plivoAuthId`."""
    exotel_password: SecretStr = SecretStr("")
    """Password, beside `phone.exotelUser`, in the URL of Exotel's Voicebot applet."""
    database_url: SecretStr = SecretStr("")
    """URL of a PostgreSQL for the store; by default the store is SQLite on a volume."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.keys and self.allowed_origins:
            raise ValueError(
                f"allowedOrigins: {self.allowed_origins[0]} is there, and so are keys; allowed: no "
                "allowedOrigins, and the site in the origins of the key that its pages use"
            )
        signs = bool(self.webhook_secret.get_secret_value())
        if bool(self.webhook_url) != signs:
            missing, there = ("webhookSecret", "webhookUrl") if not signs else ("webhookUrl", "webhookSecret")
            raise ValueError(f"{missing}: is missing, and {there} is there; allowed: both, or none")
        secret = bool(self.turn_secret.get_secret_value())
        if self.turn_urls and not secret:
            raise ValueError(
                "turnSecret: is missing, and turnUrls is there; allowed: the static-auth-secret "
                "of these servers, by `pulumi config set --secret switchboard:turnSecret`"
            )
        if secret and not self.turn_urls:
            raise ValueError(f"turnUrls: is missing, and turnSecret is there; allowed: {TURN_URLS_WORDS}")
        given = [name for name in PHONE_SECRETS if getattr(self, name).get_secret_value()]
        if lacks := self.phone.missing(given):
            raise ValueError(lacks)
        return self
