"""Lists of sessions: Switchboard's own, and Pipecat Cloud's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from dispatcher.api.access import Caller
from dispatcher.api.models import CloudSessionList, CloudSessionRecord, SessionPage
from dispatcher.api.openapi import problems
from dispatcher.api.sessions import describe
from dispatcher.api.times import iso
from dispatcher.domain.errors import UnknownAgent
from dispatcher.domain.listing import Cursor, Filter
from dispatcher.domain.model import LIVE, OVER, Session, SessionState
from dispatcher.sessions.service import SessionService
from dispatcher.store.store import Store

MAX_LIMIT = 100
MAX_TIME = 2**40
"""Latest time that a filter takes: far in the future, and exact as an integer and as a float."""

COUNTED_AHEAD = 10_000
"""Limit on the sessions after a page that are counted: about 1 ms, where counting 1,000,000 takes SQLite 60
ms and more.

A client that pages on as long as `total_count` is above the offset still reaches every session.
"""

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Limit on the sessions of one page.")]
Offset = Annotated[int, Query(ge=0, le=2**31 - 1)]
Time = Annotated[int | None, Query(ge=0, le=MAX_TIME)]
Seconds = Annotated[int, Query(ge=0, le=MAX_TIME)]

OWNER = "switchboard"
"""Owner of every session in Pipecat Cloud's list; a deployment has one owner."""


def add_routes(routes: APIRouter, service: SessionService, store: Store) -> None:
    """Add the routes: `GET /v1/sessions`, and `GET /v1/agents/{agent}/sessions` with one session
    below it."""

    @routes.get("/v1/sessions", response_model=SessionPage)
    async def sessions(
        request: Request,
        agent: str | None = None,
        state: Annotated[tuple[SessionState, ...], Query()] = (),
        cursor: str | None = None,
        limit: Limit = 20,
    ) -> JSONResponse:
        caller: Caller = request.user
        behind = Cursor.parse(cursor) if cursor is not None else None
        # One more than asked for shows whether there is a next page.
        found = await store.list_sessions(Filter(agent, state, agents=caller.agents), behind, limit + 1)
        shown = found[:limit]
        following = str(Cursor.behind(shown[-1])) if len(found) > limit else None
        return JSONResponse({"sessions": [describe(one) for one in shown], "nextCursor": following})

    @routes.get("/v1/agents/{agent}/sessions", response_model=CloudSessionList, responses=problems(404))
    async def agent_sessions(
        agent: str,
        limit: Limit = 10,
        offset: Offset = 0,
        deploymentId: str | None = None,
        startTime: Time = None,
        endTime: Time = None,
        status: Literal["active", "ended", "all"] = "all",
        startType: Literal["cold", "warm", "all"] = "all",
        startTimeMin: Seconds = 0,
        startTimeMax: Seconds = 0,
    ) -> JSONResponse:
        """List an agent's sessions, as Pipecat Cloud does.

        `total_count` counts at most 10,000 sessions after the page. It is exact if fewer follow; if more do,
        it is below the total and above the offset. `startTimeMin` and `startTimeMax` scan every session that
        the other filters leave.
        """
        if agent not in service.agents:
            raise UnknownAgent(f"There is no agent '{agent}'; allowed: {', '.join(service.agents)}.")
        # An agent is its own deployment, and every machine is started for its session.
        if deploymentId not in (None, agent) or startType == "warm":
            return JSONResponse({"total_count": 0, "sessions": []})
        wanted = Filter(
            agent,
            {"active": LIVE, "ended": OVER, "all": ()}[status],
            created_from=startTime,
            created_until=endTime,
            ready_after_at_least=startTimeMin or None,
            ready_after_at_most=startTimeMax or None,
        )
        found = await store.list_sessions(wanted, None, limit, offset)
        total = await store.count_sessions(wanted, offset + limit + COUNTED_AHEAD)
        return JSONResponse({"total_count": total, "sessions": [_in_list(one) for one in found]})

    @routes.get(
        "/v1/agents/{agent}/sessions/{session_id}", response_model=CloudSessionRecord, responses=problems(404)
    )
    async def agent_session(agent: str, session_id: str) -> JSONResponse:
        session = await service.get(session_id, agent)
        return JSONResponse(
            common(session)
            | {
                "endedAt": session.ended_at and iso(session.ended_at),
                "resourceMetrics": None,
                "meetingIds": [],
            }
        )


def _in_list(session: Session) -> dict[str, Any]:
    """Return a session of Pipecat Cloud's list, in which `endedAt` is never null."""
    return common(session) | ({"endedAt": iso(session.ended_at)} if session.ended_at is not None else {})


def common(session: Session) -> dict[str, Any]:
    """Return the members that every answer of Pipecat Cloud about a session has."""
    times = (session.started_at, session.waiting_at, session.ready_at, session.active_at, session.ended_at)
    updated = max(time for time in (session.created_at, *times) if time is not None)
    ready_after = session.ready_at - session.created_at if session.ready_at is not None else None
    completed = {SessionState.ended: "HTTP_COMPLETED", SessionState.failed: "HTTP_ERROR"}
    return {
        "sessionId": session.id,
        "serviceId": session.agent,
        "organizationId": OWNER,
        "deploymentId": session.agent,
        "botStartSeconds": round(ready_after) if ready_after is not None else None,
        "coldStart": True,
        "completionStatus": completed.get(session.state),
        "createdAt": iso(session.created_at),
        "updatedAt": iso(updated),
    }
