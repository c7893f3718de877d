"""The answers, as clients read them. What is in the OpenAPI document comes from these."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from bot.protocol import Phase
from dispatcher.sessions.lifecycle import SessionState
from dispatcher.sessions.timeline import Kind
from dispatcher.settings import TransportName


class Status(BaseModel):
    status: str


class Agent(BaseModel):
    name: str
    transports: list[TransportName]


class Agents(BaseModel):
    agents: list[Agent]
    defaultAgent: str
    """The agent of `POST /start`."""


class IceServer(BaseModel):
    urls: list[str]
    username: str | None = None
    credential: str | None = None


class IceConfig(BaseModel):
    iceServers: list[IceServer]


class StartAnswer(BaseModel):
    """A started session, and what its client needs to join."""

    sessionId: str
    iceConfig: IceConfig | None = None


class Stopped(BaseModel):
    """Pipecat Cloud's answer to a stop."""

    status: str
    session_id: str


class Latency(BaseModel):
    firstWordMs: float | None
    turnMs: list[float]


class SessionRecord(BaseModel):
    """A session as its owner reads it. Pipecat Cloud's members are among the others."""

    sessionId: str
    agent: str
    transport: str
    state: SessionState
    phase: Phase | None
    createdAt: str
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
    """In a list it is left out while the session lives; alone it is null."""


class CloudSessionRecord(CloudSession):
    """A session as Pipecat Cloud shows it."""

    resourceMetrics: None
    meetingIds: list[dict[str, Any]]


class CloudSessionList(BaseModel):
    total_count: int
    sessions: list[CloudSession]


class TimelineEvent(BaseModel):
    """One event. `state` and `phase` are the session's right after it."""

    id: int
    event: Kind
    at: str
    by: str
    state: SessionState
    phase: Phase | None
    message: str
    reason: str | None


class Timeline(BaseModel):
    """The events after the one that was asked about, oldest first."""

    sessionId: str
    state: SessionState
    over: bool
    """Whether the session is over; then only its machine's end can still follow."""
    events: list[TimelineEvent]
