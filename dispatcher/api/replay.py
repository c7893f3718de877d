"""Repetition of webhooks, for a back end that lost some."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import AwareDatetime

from dispatcher.api.models import Replayed
from dispatcher.api.openapi import problems
from dispatcher.outbound.webhooks import Webhooks

REPLAY_PATH = "/v1/webhooks/replay"

Since = Annotated[AwareDatetime, Query(description="Sessions that were created at this time or later.")]
Until = Annotated[AwareDatetime, Query(description="Sessions that were created before this time.")]


def add_routes(routes: APIRouter, webhooks: Webhooks | None) -> None:
    """Add the route of a replay.

    Args:
        webhooks: None if no back end is told of sessions.
    """

    @routes.post(REPLAY_PATH, response_model=Replayed, responses=problems(401, 404))
    async def replay(since: Since, until: Until) -> Replayed:
        """Send the webhooks of sessions again, with the ids that they had. None that waits is doubled."""
        if webhooks is None:
            raise HTTPException(404, "No webhooks are sent: webhook_url is not set.")
        if since >= until:
            raise HTTPException(
                400,
                f"until: {until.isoformat()} is not after since; allowed: a time after {since.isoformat()}",
            )
        return Replayed(messages=await webhooks.replay(since.timestamp(), until.timestamp()))
