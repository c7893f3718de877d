"""Answers to Pipecat Cloud's command line."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from dispatcher.api.models import CloudSession

EndState = Literal[
    "active",
    "completed",
    "ended_before_agent_start",
    "agent_start_timeout",
    "terminated",
    "agent_error",
    "unknown",
]
"""A session's state, in Pipecat Cloud's terms."""


class Organization(BaseModel):
    id: str
    name: str
    verboseName: str


class Organizations(BaseModel):
    organizations: list[Organization]


class Service(BaseModel):
    """An agent as Pipecat Cloud's command line reads it. It is its own deployment."""

    name: str
    region: str
    """Its placements, separated by commas."""
    desiredDeploymentId: str
    activeDeploymentId: str
    reconciledDeploymentId: str
    createdAt: str
    """Time since when this dispatcher has run with it."""
    updatedAt: str


class ListedService(Service):
    id: str
    organizationId: str
    deletedAt: None


class Services(BaseModel):
    services: list[ListedService]


class Scaling(BaseModel):
    minReplicas: int
    maxReplicas: int
    """The agent's `maxSessions`."""


class Resources(BaseModel):
    cpu: str
    memory: str


class DeploymentSpec(BaseModel):
    image: str
    """The machines' image; the bot file where machines are processes."""
    autoScaling: Scaling
    resources: Resources
    maxSessionDurationSeconds: int


class Manifest(BaseModel):
    spec: DeploymentSpec


class ServiceDeployment(BaseModel):
    id: str
    serviceId: str
    manifest: Manifest
    createdAt: str
    updatedAt: str


class ServiceStatus(Service):
    ready: bool
    available: bool
    activeDeploymentReady: bool
    activeSessionCount: int
    autoScaling: Scaling
    resources: Resources
    deployment: ServiceDeployment


class ServiceAnswer(BaseModel):
    body: ServiceStatus


class ServiceSession(CloudSession):
    endState: EndState
    resourceMetrics: None


class ServiceSessions(BaseModel):
    total_count: int
    """Total, counted to at most 10,000 sessions after the page."""
    sessions: list[ServiceSession]


class LogLine(BaseModel):
    timestamp: str
    log: str


class LogLines(BaseModel):
    logs: list[LogLine]
