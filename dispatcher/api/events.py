"""A session's timeline: returned at once, waited for, or streamed.

Its path is not below `/sessions/{id}/`: every path there belongs to the bot, which may have an `events` of
its own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy.exc import SQLAlchemyError

from dispatcher.api.models import QueuePlace, Timeline, TimelineEvent
from dispatcher.api.openapi import problems
from dispatcher.api.times import iso
from dispatcher.domain.errors import UnknownSession
from dispatcher.domain.timeline import Event
from dispatcher.sessions.watcher import Seen, TimelineWatcher
from dispatcher.store.database import is_outage

KEEP_ALIVE_SECONDS = 15.0
"""Longest silence of a stream: proxies and load balancers close idle connections after 30 s to 60 s."""

MAX_WAIT_SECONDS = 60.0

OUTAGE_SECONDS = 5.0
"""Pause of a stream before it asks an unavailable store again."""

EVENT_STREAM = "text/event-stream"

EventNumber = Annotated[
    int, Query(ge=0, le=2**31 - 1, description="Id of the last event that the client has.")
]
LastEventId = Annotated[int | None, Header(ge=0, le=2**31 - 1, description="`after`, as browsers send it.")]
WaitSeconds = Annotated[
    float,
    Query(
        ge=0,
        le=MAX_WAIT_SECONDS,
        description="Longest wait for an event, in seconds, before the answer.",
    ),
]


_STREAMED = {
    200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
    204: {"description": "The stream has ended: there is nothing after that event, and nothing will come."},
}


def add_routes(routes: APIRouter, watch: TimelineWatcher) -> None:
    """Add the routes: `GET /v1/sessions/{id}/events`, as JSON or, if accepted, as server-sent events."""

    @routes.get(
        "/v1/sessions/{session_id}/events",
        response_model=Timeline,
        responses={**_STREAMED, **problems(404)},
    )
    async def events(
        session_id: str,
        request: Request,
        after: EventNumber = 0,
        wait: WaitSeconds = 0,
        last_event_id: LastEventId = None,
    ) -> Response:
        after = after if last_event_id is None else last_event_id
        if EVENT_STREAM in request.headers.get("accept", ""):
            return await _stream(watch, session_id, after)
        seen = await (watch.wait(session_id, after, wait) if wait else watch.read(session_id, after))
        if seen is None:
            raise UnknownSession.of(session_id)
        return JSONResponse(describe(seen).model_dump(mode="json"), headers={"Vary": "Accept"})


def describe(seen: Seen) -> Timeline:
    """Return a timeline as its owner reads it."""
    # The session was read before its events and may be behind them.
    state = seen.events[-1].state if seen.events else seen.session.state
    described = [_describe(event) for event in seen.events]
    place = QueuePlace.of(seen.place)
    return Timeline(sessionId=seen.session.id, state=state, over=seen.over, queue=place, events=described)


async def _stream(watch: TimelineWatcher, session_id: str, after: int) -> Response:
    seen = await watch.read(session_id, after)
    if seen is None:
        raise UnknownSession.of(session_id)
    if seen.over and not seen.events:
        # A browser reopens a stream that ended; this status tells it that there is no more.
        return Response(status_code=204)
    # Proxies that buffer would hold events back; this header is nginx's switch.
    headers = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}
    return StreamingResponse(_frames(watch, session_id, after), headers=headers, media_type=EVENT_STREAM)


async def _frames(watch: TimelineWatcher, session_id: str, after: int) -> AsyncIterator[str]:
    place: int | None = None
    while not watch.stopped:
        try:
            seen = await watch.wait(session_id, after, KEEP_ALIVE_SECONDS, place)
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            # A browser whose attempt to reopen a stream fails gives up for good: keep this one open.
            yield ": the store does not answer\n\n"
            await watch.rest(OUTAGE_SECONDS)
            continue
        if seen is None:
            return
        for event in seen.events:
            after = event.number
            data = json.dumps(_describe(event).model_dump(mode="json"))
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n"
        if seen.over:
            return
        moved = seen.place is not None and seen.place.number != place
        place = seen.place.number if seen.place is not None else None
        if moved and (shown := QueuePlace.of(seen.place)) is not None:
            # Without an id: it describes the present, so a client that reconnects has missed nothing.
            yield f"event: queue\ndata: {shown.model_dump_json()}\n\n"
        elif not seen.events:
            yield ": still there\n\n"


def _describe(event: Event) -> TimelineEvent:
    return TimelineEvent(
        id=event.number,
        event=event.kind,
        at=iso(event.at),
        by=event.actor,
        state=event.state,
        phase=event.phase,
        message=event.message,
        reason=event.reason,
    )
