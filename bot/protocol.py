"""The channel's messages: one WebSocket between a machine and the dispatcher, JSON text frames.

The machine opens `{dispatcher}/v1/machines/channel` with `Authorization: Bearer <machine token>` and sends
`hello` first; the dispatcher answers `welcome`. From then on either side sends what it has to say:

    machine → dispatcher                      dispatcher → machine
    hello              who I am, what I run   welcome       the channel stands
    heartbeat          phase and load         assign        the session to serve (machines without one)
    ready              pipeline started       request       a call of the session API, to be answered
    client-connected   somebody is there      stop          end the session
    client-disconnected                       room-open     the session's room is there
    latency            first word, turns      acknowledge   `ended` is on record, the process may exit
    response           to a request
    assigned           it serves that session
    ended              last word, with reason

A machine reconnects with backoff and says `hello` again with the phase it is in, so that a dispatcher that
was restarted learns what runs without asking. A request that is not answered yet may come again then; the
machine knows it by its id, and does not run it again. This module imports pydantic, and of ours what
a process's order names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter

from bot.confinement import Confinement

PROTOCOL_VERSION = 5
"""Raised when a message or an argument is added or changes its meaning.

Dispatcher and bot image are deployed one after the other, and a session outlives a deployment: each side
works with the version before its own and with the one after. The older side ignores what it does not know.
The newer side learns the other's version from `hello` or `welcome`, and sends nothing that the other cannot
know.
"""

RESERVE_SINCE = 5
"""The first version whose machines say `assigned`, and wait for `room-open` before their bot runs: only those
may wait in the reserve."""

CHANNEL_PATH = "/v1/machines/channel"
SOCKET_PATH = "/v1/machines/socket"
"""Path of the second WebSocket that a machine opens if its session's transport is `websocket`.

The dispatcher sends one `Joined` when the session's client is there. From then on the frames are the client's
and the bot's own, until either side closes.
"""

MACHINE_TOKEN_VARIABLE = "SWITCHBOARD_MACHINE_TOKEN"  # noqa: S105 - the name of a variable, not a token
TRACEPARENT_VARIABLE = "TRACEPARENT"
"""The variable with the W3C trace context of the machine's session; the name is OpenTelemetry's."""
BOT_ARGUMENTS_VARIABLE = "SWITCHBOARD_BOT_ARGUMENTS"
"""The variable with the bot's own command line, a JSON list."""

VARIABLES_FILE_VARIABLE = "SWITCHBOARD_VARIABLES_FILE"
"""The variable with the path of a file of further variables, a JSON object of texts.

For hosts on which others can read a machine's environment. The bot deletes the file once it has read it.
"""

PRIVATE_ARGUMENTS_VARIABLE = "SWITCHBOARD_PRIVATE_ARGUMENTS"
"""The variable with arguments of `python -m bot` that other users of a host must not see, a JSON list.

Every user can read a process's command line; only its own user can read its environment.
"""

_SESSION_ID = "--session-id"
"""The first of the arguments that describe a session."""

PRIVATE_ARGUMENTS = ("--body", "--room-url", "--token", "--ice-servers")

BOT_FILE_VARIABLE = "SWITCHBOARD_BOT_FILE"
"""The variable with the path of the bot file inside the machine; `/app/bot.py` in the images."""

MAX_ARGUMENT_BODY_BYTES = 4096
"""Limit on a `body` that is passed as an argument; a larger one travels in `assign`, with every provider:
even a process's environment has a limit."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Limit on a frame, for either side: a 1 MB body in base64, the JSON around it, and room to spare."""

MAX_SOCKET_FRAME_BYTES = 1024 * 1024
"""Limit on a frame of the transport `websocket`, for either side; 5 s of stereo at 48 kHz have as much."""

MAX_FILE_BYTES = 50 * 1024 * 1024
"""Limit on a file that a client uploads, as in Pipecat's development runner."""

MAX_UPLOAD_BYTES = MAX_FILE_BYTES + 64 * 1024
"""Limit on an upload: a file of the largest size, and the form around it."""

PIECE_BYTES = 1024 * 1024
"""Size of one piece of a file that goes over the channel in pieces."""

PIECE_TAKEN = 202
"""Status of the answer to each piece of an upload except the last."""

Phase = Literal["booting", "idle", "loading", "waiting", "starting", "ready", "active", "ending"]
"""Phase of a machine: `booting` (imports), `idle` (a machine of the reserve), `loading` (the bot file is
imported), `waiting` (for its client's offer), `starting` (the bot runs, its pipeline does not yet), `ready`
(pipeline started), `active` (a client is connected), `ending`."""

EndReason = Literal[
    "completed",
    "stopped",
    "machine_stopped",
    "max_duration",
    "bot_error",
    "invalid_bot",
    "never_ready",
    "join_refused",
]
"""Reason for a machine's end, in this order: the bot returned; the dispatcher stopped it; its host stopped
it; its time was up; it raised; its file could not be imported or has no `async def bot(runner_args)`; it
returned before its pipeline had started; it was not let into its room."""


class Message(BaseModel):
    """A frame of the channel. Unknown fields are ignored: the other side may be one version ahead."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class IceServer(Message):
    """A STUN or TURN server, in the shape of a browser's RTCIceServer."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class Assignment(Message):
    """The session of a machine, told by arguments or over the channel."""

    session_id: str
    agent: str
    transport: str
    body: Any = None
    """The start request's `body`, as JSON."""
    room_url: str | None = None
    token: str | None = None
    ice_servers: tuple[IceServer, ...] = ()
    max_duration_seconds: float
    """The machine ends itself this long after it was assigned, with `max_duration`."""
    traceparent: str | None = None
    """The W3C trace context of the session, for a bot that traces. Not an argument: a machine that is started
    for its session has it in `TRACEPARENT_VARIABLE`."""


def entrypoint_arguments(
    machine_id: str, dispatcher: str, assignment: Assignment | None, max_wait_seconds: float | None = None
) -> list[str]:
    """Return the arguments of `python -m bot` for a machine; `bot/runtime.py` parses exactly these.

    Without an assignment the machine waits for one over the channel: a machine of the reserve, or one whose
    session's body is over `MAX_ARGUMENT_BODY_BYTES`.

    Args:
        max_wait_seconds: For a machine of the reserve, the limit on its wait for a session.
    """
    arguments = ["--protocol", str(PROTOCOL_VERSION), "--machine-id", machine_id, "--dispatcher", dispatcher]
    if max_wait_seconds is not None:
        arguments += ["--max-wait", str(max_wait_seconds)]
    if assignment is None:
        return arguments
    arguments += [
        *(_SESSION_ID, assignment.session_id),
        *("--agent", assignment.agent),
        *("--transport", assignment.transport),
        *("--max-duration", str(assignment.max_duration_seconds)),
    ]
    if assignment.body is not None:
        # In one piece: JSON may begin with a hyphen, as an option does.
        arguments += [f"--body={json.dumps(assignment.body, separators=(',', ':'))}"]
    if assignment.room_url is not None:
        arguments += ["--room-url", assignment.room_url]
    if assignment.token is not None:
        arguments += ["--token", assignment.token]
    if assignment.ice_servers:
        servers = [server.model_dump(exclude_none=True) for server in assignment.ice_servers]
        arguments += ["--ice-servers", json.dumps(servers, separators=(",", ":"))]
    return arguments


def without_secrets(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments for a place that others can read: without the session, if part of it is private.

    The machine then gets its session over the channel, as every version can.
    """
    if any(argument.partition("=")[0] in PRIVATE_ARGUMENTS for argument in arguments):
        return tuple(arguments[: arguments.index(_SESSION_ID)])
    return tuple(arguments)


LONGEST_MILLISECONDS = 604_800_000.0
"""Limit on a reported duration: a week, longer than any session."""

Milliseconds = Annotated[float, Field(ge=0, le=LONGEST_MILLISECONDS)]
"""A duration, or the time from a start to an event.

A bot reports a week for anything longer (`milliseconds`), and nothing below 0; the dispatcher refuses other
numbers, so that they reach no record or metric.
"""


def milliseconds(value: float) -> float:
    """Return `value` within the limits of `Milliseconds`: a machine may have idled for weeks, and a clock may
    err."""
    return round(min(max(value, 0.0), LONGEST_MILLISECONDS), 1)


class Timings(Message):
    """The phases of a start, in milliseconds since the machine's process began; None for one that has not
    happened.

    A process of the reserve began long before its session did: its times count from the assignment. Each
    `hello` repeats them all.
    """

    connected: Milliseconds | None = None
    """The channel stood."""
    imported: Milliseconds | None = None
    """Pipecat was imported."""
    loaded: Milliseconds | None = None
    """The bot file was imported."""
    offer: Milliseconds | None = None
    """The client's offer arrived (SmallWebRTC)."""
    answer: Milliseconds | None = None
    """The answer to it was sent."""
    pipeline: Milliseconds | None = None
    """The pipeline started."""
    ready: Milliseconds | None = None
    """The bot was ready."""
    client: Milliseconds | None = None
    """The client was connected."""
    first_word: Milliseconds | None = None
    """The bot's first audio went out."""


class Hello(Message):
    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    machine_id: str
    session_id: str | None = None
    phase: Phase
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of `pipecat` and `python`, for the session's record."""
    timings: Timings = Timings()
    opened_at: float = 0.0
    """Time when the machine opened this connection, in seconds of its own monotonic clock. If two dispatchers
    each hold a connection of one machine, the later one counts."""


class Heartbeat(Message):
    """Sent at the interval of `welcome`, and at once when the phase changes."""

    type: Literal["heartbeat"] = "heartbeat"
    phase: Phase
    rss_bytes: int
    cpu_seconds: float


class Ready(Message):
    type: Literal["ready"] = "ready"
    timings: Timings


class ClientConnected(Message):
    type: Literal["client-connected"] = "client-connected"
    timings: Timings


class ClientDisconnected(Message):
    type: Literal["client-disconnected"] = "client-disconnected"


class Latency(Message):
    type: Literal["latency"] = "latency"
    kind: Literal["first_word", "turn"]
    """`first_word`: from the client's connection to the bot's first audio. `turn`: from the end of the
    user's speech to the start of the bot's."""
    milliseconds: Milliseconds


class Response(Message):
    type: Literal["response"] = "response"
    id: str
    status: int
    headers: Annotated[tuple[tuple[str, str], ...], FailFast()] = ()
    body: str = ""
    """Base64."""
    size: int | None = Field(default=None, ge=0)
    """Size of the whole file, if the body is a piece of it; in the answer to a piece of an upload, the bytes
    that arrived."""


class Assigned(Message):
    """The answer of a machine of the reserve to `assign`: it serves that session.

    Its bot runs once `room-open` has come. Until then the dispatcher may have given the session to another
    machine, and says `stop` instead: of two machines one bot runs.
    """

    type: Literal["assigned"] = "assigned"
    session_id: str


class Ended(Message):
    """The machine's last message, sent again after a reconnect until it is acknowledged."""

    type: Literal["ended"] = "ended"
    reason: EndReason
    message: str
    """One sentence that a person understands."""
    detail: str = ""
    """The end of the traceback, where there is one."""
    exit_code: int = Field(default=0, ge=0, le=255)
    """Exit code that the bot's end amounts to: 0, or 1 if it failed.

    The process itself exits with 0 once this message is acknowledged, because some platforms restart a
    machine that failed.
    """


class Welcome(Message):
    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL_VERSION
    heartbeat_seconds: float


class Assign(Message):
    type: Literal["assign"] = "assign"
    assignment: Assignment


class Piece(Message):
    """A piece of an upload: pieces are sent in order, each after the answer to the one before."""

    upload: str
    """The upload's id, shared by all its pieces."""
    offset: int = Field(ge=0)
    is_last: bool = False


class Request(Message):
    type: Literal["request"] = "request"
    id: str
    method: str
    path: str
    """Without the leading slash: `api/offer` for SmallWebRTC, else a route that the bot added."""
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    """Base64."""
    base: str = ""
    """The client's base URL of the session's paths, `https://host/sessions/{id}`, for the bot's redirects and
    links."""
    piece: Piece | None = None
    """The body is this piece of a `POST`. The answer has a `size`, unless the machine is older than
    pieces."""
    start: int | None = Field(default=None, ge=0)
    """The first byte of the piece of a file that is asked for. An answer that is a piece has its `size`."""


class Stop(Message):
    type: Literal["stop"] = "stop"
    message: str
    """The reason in words; it comes back in `ended`."""


class RoomOpen(Message):
    """Sent to a machine that was started with its session: the room exists, and the bot may join it.

    Room and machine are requested at the same time. `assign` is sent only once the room exists; to a machine
    of the reserve it is sent before. Such a machine hears `room-open` whatever its transport, once it has
    `assigned` the session and that is on record.
    """

    type: Literal["room-open"] = "room-open"


class Acknowledge(Message):
    type: Literal["acknowledge"] = "acknowledge"


JOINED_HEADERS = ("origin", "user-agent")
"""The client's headers that its bot sees."""


class Joined(Message):
    """The first frame on a machine's second WebSocket: the session's client is there."""

    type: Literal["joined"] = "joined"
    headers: tuple[tuple[str, str], ...] = ()
    """Those of `JOINED_HEADERS` that the client sent."""


class Launch(Message):
    """An order to a template process to fork: a line of JSON. It answers with a `Launched`.

    Templates exist only for machines that are processes of one host.
    """

    machine_id: str
    directory: str
    """The machine's directory: `pid` gets the ids of its processes, `exit` its exit status, `output.log` its
    output; `work` is the working directory."""
    arguments: tuple[str, ...]
    """Arguments of `python -m bot`."""
    environment: dict[str, str]
    memory_kib: int
    """Limit on private memory (RLIMIT_DATA)."""
    cpu_seconds: int
    """Limit on CPU time (RLIMIT_CPU)."""
    confinement: Confinement = Confinement()
    """Limits on what the machine may reach of this host."""


class Launched(Message):
    """The machine runs and is on record in its directory, or the reason why it does not."""

    error: str | None = None


FromMachine = Annotated[
    Hello | Heartbeat | Assigned | Ready | ClientConnected | ClientDisconnected | Latency | Response | Ended,
    Field(discriminator="type"),
]
FromDispatcher = Annotated[
    Welcome | Assign | RoomOpen | Request | Stop | Acknowledge, Field(discriminator="type")
]

_from_machine: TypeAdapter[FromMachine] = TypeAdapter(FromMachine)
_from_dispatcher: TypeAdapter[FromDispatcher] = TypeAdapter(FromDispatcher)


def parse_from_machine(frame: str | bytes) -> FromMachine:
    """Read a frame that a machine sent.

    Raises:
        pydantic.ValidationError: it is not one of the messages above.
    """
    return _from_machine.validate_json(frame)


def parse_from_dispatcher(frame: str | bytes) -> FromDispatcher:
    """Read a frame that the dispatcher sent.

    Raises:
        pydantic.ValidationError: it is not one of the messages above.
    """
    return _from_dispatcher.validate_json(frame)
