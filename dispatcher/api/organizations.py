"""The read commands of Pipecat Cloud's command line, with `PIPECAT_API_HOST` set to this dispatcher.

`agent list`, `status`, `sessions`, `logs` and `stop`, and `organizations list`: views of other routes' data.
Agents come from the deployment's settings, so commands that create or change one are not served.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from dispatcher.api.access import ORGANIZATION, Caller
from dispatcher.api.cloud_models import (
    EndState,
    LogLines,
    Organizations,
    ServiceAnswer,
    Services,
    ServiceSession,
    ServiceSessions,
)
from dispatcher.api.lists import COUNTED_AHEAD, OWNER, Limit, Offset, common
from dispatcher.api.models import Stopped
from dispatcher.api.openapi import problems
from dispatcher.api.times import iso, maybe_iso
from dispatcher.clock import Clock
from dispatcher.domain.errors import UnknownAgent
from dispatcher.domain.listing import Filter
from dispatcher.domain.model import LIVE, OVER, Session
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import ProviderError
from dispatcher.sessions.service import SessionService
from dispatcher.settings import AgentSettings
from dispatcher.store.store import Store

REASONS: dict[EndState, tuple[str, ...]] = {
    "completed": ("completed",),
    "terminated": ("stopped", "max_duration", "idle_timeout"),
    "ended_before_agent_start": ("abandoned", "no_client"),
    "agent_start_timeout": ("start_timeout", "queue_timeout"),
    "agent_error": (
        *("bot_error", "invalid_bot", "never_ready"),
        *("machine_killed", "machine_exited", "machine_lost", "machine_stopped"),
        *("out_of_memory", "unresponsive"),
    ),
}
"""Pipecat Cloud's end state → Switchboard's reasons. `active` has none yet; any other reason is `unknown`."""

_NAMED = tuple(reason for reasons in REASONS.values() for reason in reasons)

COUNTED_SESSIONS = 100_001
"""Limit on the sessions that are counted: one more than the largest `maxSessions`."""

LOGGED_SESSIONS = 20
"""Number of an agent's last sessions that `logs` shows if none is named."""

LogLimit = Annotated[int, Query(ge=1, le=1000, description="Limit on the lines.")]


def add_routes(routes: APIRouter, service: SessionService, store: Store, fleet: Fleet, clock: Clock) -> None:
    """Add the routes below `/v1/organizations`. Any organization's name stands for the deployment's one
    owner."""
    # The dispatcher does not know an agent's age: its settings are as old as this process.
    since = iso(clock.now())

    def known(agent: str) -> AgentSettings:
        if agent not in service.agents:
            raise UnknownAgent(f"There is no agent '{agent}'; allowed: {', '.join(service.agents)}.")
        return service.agents[agent]

    def listed(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "region": ",".join(service.placements_of(name)),
            **dict.fromkeys(("desiredDeploymentId", "activeDeploymentId", "reconciledDeploymentId"), name),
            "createdAt": since,
            "updatedAt": since,
        }

    @routes.get(f"{ORGANIZATION}/services", response_model=Services)
    async def services(request: Request, organization: str, region: str | None = None) -> JSONResponse:
        """List the agents, as `agent list` shows them. `region` names a placement."""
        caller: Caller = request.user
        seen = caller.agents or frozenset(service.agents)
        shown = [
            listed(name) | {"id": name, "organizationId": OWNER, "deletedAt": None}
            for name in service.agents
            if name in seen and region in (None, *service.placements_of(name))
        ]
        return JSONResponse({"services": shown})

    @routes.get(f"{ORGANIZATION}/services/{{agent}}", response_model=ServiceAnswer, responses=problems(404))
    async def service_status(agent: str, organization: str) -> JSONResponse:
        """Return an agent, as `agent status` shows it."""
        settings = known(agent)
        active = await store.count_sessions(Filter(agent, LIVE), COUNTED_SESSIONS)
        scaling = {"minReplicas": 0, "maxReplicas": settings.max_sessions}
        resources = {"cpu": f"{settings.cpu:g}", "memory": f"{settings.memory_mb}Mi"}
        spec = {
            # Where machines are processes, the bot file is what runs.
            "image": settings.image or str(settings.bot),
            "autoScaling": scaling,
            "resources": resources,
            "maxSessionDurationSeconds": round(settings.max_duration_seconds),
        }
        body = listed(agent) | {
            "ready": not service.draining,
            "available": not service.draining,
            "activeDeploymentReady": not service.draining,
            "activeSessionCount": active,
            "autoScaling": scaling,
            "resources": resources,
            "deployment": {
                "id": agent,
                "serviceId": agent,
                "manifest": {"spec": spec},
                "createdAt": since,
                "updatedAt": since,
            },
        }
        return JSONResponse({"body": body})

    @routes.get(
        f"{ORGANIZATION}/services/{{agent}}/sessions", response_model=ServiceSessions, responses=problems(404)
    )
    async def sessions(
        agent: str,
        organization: str,
        limit: Limit = 100,
        offset: Offset = 0,
        endState: EndState | None = None,
    ) -> JSONResponse:
        """List an agent's sessions, newest first, as `agent sessions` shows them."""
        known(agent)
        wanted = _filter(agent, endState)
        found = await store.list_sessions(wanted, None, limit, offset)
        total = await store.count_sessions(wanted, offset + limit + COUNTED_AHEAD)
        return JSONResponse({"total_count": total, "sessions": [_described(one) for one in found]})

    @routes.get(
        f"{ORGANIZATION}/services/{{agent}}/sessions/{{session_id}}",
        response_model=ServiceSession,
        responses=problems(404),
    )
    async def session(agent: str, session_id: str, organization: str) -> JSONResponse:
        """Return a session, as `agent sessions --id` shows it."""
        return JSONResponse(_described(await service.get(session_id, agent)))

    @routes.delete(
        f"{ORGANIZATION}/services/{{agent}}/sessions/{{session_id}}",
        response_model=Stopped,
        responses=problems(404),
    )
    async def stop(agent: str, session_id: str, organization: str, request: Request) -> JSONResponse:
        """End a session, as `agent stop` does."""
        caller: Caller = request.user
        await service.stop(session_id, caller.by, agent)
        return JSONResponse({"status": "terminated", "session_id": session_id})

    @routes.get(f"{ORGANIZATION}/services/{{agent}}/logs", response_model=LogLines, responses=problems(404))
    async def logs(
        agent: str,
        organization: str,
        limit: LogLimit = 100,
        sessionId: str | None = None,
        deploymentId: str | None = None,
    ) -> JSONResponse:
        """Return the timelines of an agent's last sessions, or of one session with its bot's output: oldest
        first."""
        known(agent)
        if deploymentId not in (None, agent):
            return JSONResponse({"logs": []})
        if sessionId is not None:
            session = await service.get(sessionId, agent)
            # A line has no time but the bot's own, if any; all were printed by now, or by the session's end.
            read_at = iso(session.ended_at or clock.now())
            printed = [
                {"timestamp": read_at, "log": line} for line in await _printed(store, fleet, session, limit)
            ]
            return JSONResponse({"logs": [*await _lines(store, session), *printed][-limit:]})
        told = await store.list_sessions(Filter(agent), None, LOGGED_SESSIONS)
        lines = [line for one in told for line in await _lines(store, one)]
        lines.sort(key=lambda line: line["timestamp"])
        return JSONResponse({"logs": lines[-limit:]})

    @routes.get("/v1/organizations", response_model=Organizations)
    async def organizations() -> JSONResponse:
        """List the only organization, as `organizations list` shows it."""
        return JSONResponse(
            {"organizations": [{"id": OWNER, "name": OWNER, "verboseName": OWNER.capitalize()}]}
        )


def _filter(agent: str, end_state: EndState | None) -> Filter:
    match end_state:
        case None:
            return Filter(agent)
        case "active":
            return Filter(agent, LIVE)
        case "unknown":
            return Filter(agent, OVER, other_reasons=_NAMED)
        case _:
            return Filter(agent, OVER, reasons=REASONS[end_state])


def _end_state(session: Session) -> EndState:
    if not session.over:
        return "active"
    for state, reasons in REASONS.items():
        if session.reason in reasons:
            return state
    return "unknown"


def _described(session: Session) -> dict[str, Any]:
    return common(session) | {
        # The command line reads it for every session, in lists too.
        "endedAt": maybe_iso(session.ended_at),
        "endState": _end_state(session),
        "resourceMetrics": None,
    }


async def _lines(store: Store, session: Session) -> list[dict[str, str]]:
    """Yield a session's timeline as log lines, each with the level that the command line filters by."""
    lines = []
    for event in await store.events(session.id):
        level = "ERROR" if event.kind == "failed" else "INFO"
        line = f"{level} {session.id} {event.kind}: {event.message}"
        lines.append({"timestamp": iso(event.at), "log": line})
    return lines


async def _printed(store: Store, fleet: Fleet, session: Session, limit: int) -> list[str]:
    """Return the last lines that a session's bot printed, or the reason why they cannot be read."""
    _, machine = await store.session_with_machine(session.id)
    if machine is None or machine.placement is None:
        return []
    try:
        part = await fleet.read_log(machine.placement, machine.id, limit)
    except ProviderError as error:
        return [f"ERROR The log of machine {machine.id} cannot be read here: {error}"]
    return list(part.lines) if part else []
