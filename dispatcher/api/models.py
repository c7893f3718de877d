"""Answers as clients read them; the OpenAPI document is generated from these."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from bot.protocol import Phase
from dispatcher.domain.admission import Place
from dispatcher.domain.model import SessionState
from dispatcher.domain.timeline import Kind
from dispatcher.settings import TransportName


class Logs(BaseModel):
    sessionId: str
    machineId: str
    lines: list[str]
    """Lines as the bot printed them, escape codes included, the newest last. A line is returned once it is
    complete, once the machine is gone, or in pieces of 64 KiB."""
    next: str
    """`after` of the next request, for the lines that follow."""
    skippedBytes: int | None
    """Bytes between `after`, else the beginning of the log, and the first of these lines: they were cut, or
    exceed what was asked for. Null: there are some, and the provider does not count them."""
    ended: bool
    """True if the machine is gone: no line will follow."""


class Status(BaseModel):
    status: str


class Replayed(BaseModel):
    messages: int
    """Webhooks that will be sent again."""


class ReadyStatus(Status):
    images: str | None = None
    """Identifies the table of agents' images in use, if the stack gives one."""


class Agent(BaseModel):
    name: str
    transports: list[TransportName]
    maxQueueSeconds: float
    """Longest wait in the queue that a caller may ask for, in seconds; 0 if there is no queue."""


class Agents(BaseModel):
    agents: list[Agent]
    defaultAgent: str | None
    """The agent of `POST /start`; null if the caller's key is not valid for it."""


class IceServer(BaseModel):
    urls: list[str]
    username: str | None = None
    credential: str | None = None


class IceConfig(BaseModel):
    iceServers: list[IceServer]


class QueuePlace(BaseModel):
    """A session's position in the queue."""

    place: int
    """Position; 1 is next."""
    estimatedWaitSeconds: float | None
    """Estimated wait, from how long the agent's last sessions took; null before the first has ended."""

    @classmethod
    def of(cls, place: Place | None) -> QueuePlace | None:
        if place is None:
            return None
        seconds = place.estimated_seconds
        return cls(place=place.number, estimatedWaitSeconds=None if seconds is None else round(seconds, 1))


class StartAnswer(BaseModel):
    """A started session, and what its client needs to join."""

    sessionId: str
    sessionToken: str
    """Token for this session alone, valid until its deadline: to show, follow, stop and call it."""
    fileUploadUrl: str
    """URL for the client's uploads for the bot, as a path of the same origin."""
    dailyRoom: str | None = None
    """The room's URL, if the session's transport is `daily`."""
    dailyToken: str | None = None
    """The client's token for the room, valid until the session's latest end."""
    wsUrl: str | None = None
    """Address of the client's WebSocket, if the session's transport is `websocket`."""
    token: str | None = None
    """Token for that WebSocket alone, as its parameter `token` or as `Authorization: Bearer`."""
    iceConfig: IceConfig | None = None
    queue: QueuePlace | None = None
    """Position of a queued session; left out otherwise."""


class OfferAnswer(BaseModel):
    """The development runner's answer to an offer."""

    sdp: str
    type: str
    pc_id: str
    """The connection's id, for further offers and for ICE candidates."""
    sessionId: str


class RunnerStatus(BaseModel):
    """The development runner's description of itself."""

    status: str
    transports: list[TransportName]
    """The default agent's transports; empty if the caller's key is not valid for it."""


class Stopped(BaseModel):
    """Pipecat Cloud's answer to a stop."""

    status: str
    session_id: str


class Latency(BaseModel):
    firstWordMs: float | None
    turnMs: list[float]


class SessionRecord(BaseModel):
    """A session as its owner reads it, with Pipecat Cloud's members among the others."""

    sessionId: str
    agent: str
    transport: str
    state: SessionState
    phase: Phase | None
    createdAt: str
    admittedAt: str | None
    startedAt: str | None
    readyAt: str | None
    activeAt: str | None
    endedAt: str | None
    reason: str | None
    message: str | None
    detail: str | None
    exitCode: int | None
    durationSeconds: float | None
    botStartSeconds: int | None
    timings: dict[str, float]
    latency: Latency
    queue: QueuePlace | None = None
    """Position of a queued session. Lists leave it out."""


class SessionPage(BaseModel):
    """Sessions, newest first."""

    sessions: list[SessionRecord]
    nextCursor: str | None
    """The `cursor` of the next page, or null on the last one."""


class CloudSession(BaseModel):
    """A session as Pipecat Cloud lists it."""

    sessionId: str
    serviceId: str
    organizationId: str
    deploymentId: str
    botStartSeconds: int | None
    coldStart: bool
    completionStatus: str | None
    createdAt: str
    updatedAt: str
    endedAt: str | None = None
    """End of the session. In a list it is left out while the session lives; alone it is null."""


class CloudSessionRecord(CloudSession):
    """A session as Pipecat Cloud shows it."""

    resourceMetrics: None
    meetingIds: list[dict[str, Any]]


class CloudSessionList(BaseModel):
    total_count: int
    sessions: list[CloudSession]


class TimelineEvent(BaseModel):
    """One event, with the session's `state` and `phase` right after it."""

    id: int
    event: Kind
    at: str
    by: str
    state: SessionState
    phase: Phase | None
    message: str
    reason: str | None


class Timeline(BaseModel):
    """The events after the given one, oldest first, 200 at most."""

    sessionId: str
    state: SessionState
    over: bool
    """True if the session's end is among these events or before them; only its machine's end can
    follow then."""
    queue: QueuePlace | None
    """The position of a queued session. A stream sends each change as an event `queue`."""
    events: list[TimelineEvent]
