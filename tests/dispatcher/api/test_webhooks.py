"""Webhooks of any transport, taken at a route with its name."""

from collections.abc import Mapping
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from dispatcher.api import webhooks
from dispatcher.api.access import Caller
from dispatcher.sessions.hints import Hints
from dispatcher.transports.settings import Forged, RoomEvent, RoomEvents, Webhook


class Reader:
    """Takes messages that carry a password, about the session that they name."""

    def read(self, body: bytes, headers: Mapping[str, str]) -> RoomEvent | None:
        if headers.get("X-Password") != "open":
            raise Forged("X-Password is wrong.")
        return RoomEvent(body.decode(), "They left.", is_end=True) if body else None


class Told:
    """The hints that came of messages."""

    def __init__(self) -> None:
        self.hints: list[tuple[str, str, bool]] = []

    def about_room(self, session_id: str, message: str, *, is_end: bool) -> None:
        self.hints.append((session_id, message, is_end))


def client(reader: RoomEvents | None, told: Told) -> httpx.AsyncClient:
    routes = APIRouter()
    described = Webhook("Acme's", ("X-Password",), "acme_password")
    webhooks.add_routes(routes, {"acme": (described, reader)}, {}, cast(Hints, told))
    app = FastAPI(routes=routes.routes)

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = Caller("anybody", "session")
        await app(scope, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(authenticated), base_url="http://dispatcher")


@pytest.mark.parametrize(
    ("password", "body", "status", "hints"),
    [
        ("open", b"s-1", 200, [("s-1", "They left.", True)]),
        ("open", b"", 200, []),
        ("shut", b"s-1", 401, []),
    ],
)
async def test_webhook_becomes_a_hint_when_it_is_the_services(
    password: str, body: bytes, status: int, hints: list[Any]
) -> None:
    told = Told()
    async with client(Reader(), told) as http:
        answer = await http.post("/webhooks/acme", content=body, headers={"X-Password": password})
    assert (answer.status_code, told.hints) == (status, hints)


async def test_webhook_is_refused_with_the_missing_setting_when_none_are_taken() -> None:
    async with client(None, Told()) as http:
        answer = await http.post("/webhooks/acme", content=b"s-1")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        "No webhooks are taken here: acme_password is not set.",
    )
