"""Webhooks of services that the deployment uses. Each message is signed; others are refused."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request

from dispatcher.api.bodies import read_body
from dispatcher.api.models import Status
from dispatcher.api.openapi import problems
from dispatcher.sessions.hints import Hints
from dispatcher.transports.daily.webhooks import DailyWebhooks, Forged

MAX_BYTES = 64 * 1024
"""Limit on one message; Daily's events have some hundred bytes."""

# The body is read by hand: the signature is over its bytes.
_DESCRIBED: dict[str, Any] = {
    "response_model": Status,
    "responses": problems(401, 404, 413),
    "openapi_extra": {
        "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
            for name in ("X-Webhook-Signature", "X-Webhook-Timestamp")
        ],
    },
}


def router(webhooks: DailyWebhooks | None, hints: Hints) -> APIRouter:
    """Return the route `POST /webhooks/daily`."""
    routes = APIRouter()

    @routes.post("/webhooks/daily", summary="Take a webhook of Daily's", **_DESCRIBED)
    async def daily(request: Request) -> Status:
        if webhooks is None:
            raise HTTPException(404, "No webhooks are taken here: daily_api_key is not set.")
        body = await read_body(request, MAX_BYTES)
        try:
            event = webhooks.read(body, request.headers)
        except Forged as forged:
            raise HTTPException(401, str(forged)) from forged
        if event is not None:
            hints.about_room(event.session_id, event.message, is_end=event.is_end)
        return Status(status="ok")

    return routes
