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
from dispatcher.transports.settings import Forged, RoomEvents, Webhook

MAX_BYTES = 64 * 1024
"""Limit on one message; events of rooms have some hundred bytes."""


def _described(headers: tuple[str, ...] = ()) -> dict[str, Any]:
    # The body is read by hand: a signature is over its bytes.
    body = {"content": {"application/json": {"schema": {"type": "object"}}}}
    header: dict[str, Any] = {"in": "header", "required": False, "schema": {"type": "string"}}
    known = [{"name": name, **header} for name in headers]
    more = {"requestBody": body, **({"parameters": known} if known else {})}
    return {"response_model": Status, "responses": problems(401, 404, 413), "openapi_extra": more}


def add_routes(
    routes: APIRouter,
    webhooks: Mapping[str, tuple[Webhook, RoomEvents | None]],
    events: Mapping[str, settings.MachineEvents],
    hints: Hints,
) -> None:
    """Add the routes of webhooks.

    Args:
        webhooks: Transport → its webhooks, and what reads them, if any are taken.
        events: Machine provider → the reader of its events.
    """

    for name, (webhook, reader) in webhooks.items():
        _add_route(routes, name, webhook, reader, hints)

    @routes.post("/webhooks/machines/{provider}", summary="Take a machine provider's event", **_described())
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


def _add_route(
    routes: APIRouter, name: str, webhook: Webhook, reader: RoomEvents | None, hints: Hints
) -> None:
    summary = f"Take a webhook of {webhook.service}"

    @routes.post(f"/webhooks/{name}", name=name, summary=summary, **_described(webhook.headers))
    async def of_rooms(request: Request) -> Status:
        if reader is None:
            raise HTTPException(404, f"No webhooks are taken here: {webhook.needs} is not set.")
        body = await read_body(request, MAX_BYTES)
        try:
            event = reader.read(body, request.headers)
        except Forged as forged:
            raise HTTPException(401, str(forged)) from forged
        if event is not None:
            hints.about_room(event.session_id, event.message, is_end=event.is_end)
        return Status(status="ok")
