"""The output of a session's bot, where its placement keeps it.

Its path is not below `/sessions/{id}/`: every path there belongs to the bot.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from dispatcher.api.models import Logs
from dispatcher.api.openapi import problems
from dispatcher.api.problems import problem
from dispatcher.domain.errors import UnknownSession
from dispatcher.domain.model import MachineState
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import ProviderError, Rejected
from dispatcher.store.store import Store

MAX_LINES = 1000

Tail = Annotated[int, Query(ge=1, le=MAX_LINES, description="Number of the last lines, 256 KiB at most.")]
After = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9]{1,25}$",
        description="`next` of an earlier answer: of what came since, the last lines.",
    ),
]


def add_routes(routes: APIRouter, store: Store, fleet: Fleet) -> None:
    """Add the route `GET /v1/sessions/{id}/logs`."""

    @routes.get("/v1/sessions/{session_id}/logs", response_model=Logs, responses=problems(404, 503))
    async def logs(session_id: str, tail: Tail = 200, after: After = None) -> Response:
        session, machine = await store.session_with_machine(session_id)
        if session is None:
            raise UnknownSession.of(session_id)
        if machine is None or machine.placement is None:
            return problem(
                404, f"Session {session_id} has no log: no machine was asked for it.", code="no_log"
            )
        # Before the log is read: a machine that is gone by now has printed everything.
        ended = machine.state is MachineState.gone
        place = None if after is None else int(after)
        try:
            part = await fleet.read_log(machine.placement, machine.id, tail, place, ended=ended)
        except Rejected as error:
            return problem(
                404, f"The log of machine {machine.id} is elsewhere: {error}.", code="log_elsewhere"
            )
        except ProviderError as error:
            detail = f"The log of machine {machine.id} cannot be read now: {error}. Ask again."
            return problem(503, detail, code="log_unreachable", headers={"Retry-After": "5"})
        if part is None:
            return problem(404, f"Machine {machine.id} has no log, or it is no longer kept.", code="no_log")
        read = Logs(
            sessionId=session_id,
            machineId=machine.id,
            lines=list(part.lines),
            next=str(part.next),
            skippedBytes=part.skipped,
            ended=ended,
        )
        return JSONResponse(read.model_dump(), headers={"Cache-Control": "no-store"})
