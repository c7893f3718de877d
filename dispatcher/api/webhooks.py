"""Webhooks of services that the deployment uses. Each message is signed; others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request

from dispatcher.api.bodies import read_body
from dispatcher.api.models import Status
from dispatcher.api.openapi import problems
from dispatcher.machines import settings
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

_OF_MACHINES: dict[str, Any] = {
    "response_model": Status,
    "responses": problems(401, 404, 413),
    "openapi_extra": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
}


def add_routes(
    routes: APIRouter,
    webhooks: DailyWebhooks | None,
    events: Mapping[str, settings.MachineEvents],
    hints: Hints,
) -> None:
    """Add the routes of webhooks.

    Args:
        events: Machine provider → the reader of its events.
    """

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

    @routes.post("/webhooks/machines/{provider}", summary="Take a machine provider's event", **_OF_MACHINES)
    async def of_machines(provider: str, request: Request) -> Status:
        if (reader := events.get(provider)) is None:
            raise HTTPException(404, f"No events of '{provider}' are taken here.")
        try:
            reader.check(request.headers)
        except settings.Forged as forged:
            raise HTTPException(401, str(forged)) from forged
        machine_id = reader.read(await read_body(request, MAX_BYTES))
        if machine_id is not None:
            hints.about_machine(machine_id)
        return Status(status="ok")
