"""Daily's REST API as far as we use it: it keeps rooms, counts calls, and fails as it is told to.

Written from Daily's reference (docs.daily.co, REST API): "Get domain config", "Create a room", "Get room
config", "Delete a room", "Create a meeting token", "Webhooks", "Rate limits", "Self-signing tokens"; who
may join is in meetings.py, webhooks are in hooks.py. Calls and answers are checked against Daily's
description of them. It answers as an httpx transport, in the place of the network, and as an ASGI app.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx
import jwt

from dispatcher.clock import Clock
from tests.daily.hooks import Post, Webhooks
from tests.daily.meetings import Meetings, attend
from tests.daily.spec import IllFormed, check_answer, check_call

API_KEY = "daily-key-0123456789abcdef-0123456789abcdef"
DOMAIN = "example-voice"
DOMAIN_ID = "30f866c3-9123-452a-8723-ff58322d09c5"

Fault = Literal["throttled", "failed", "lost request", "lost reply", "refused", "garbage", "another room"]

LIMITS: Mapping[str, tuple[int, float]] = {"delete": (50, 30.0), "other": (100, 5.0)}
"""Calls in so many seconds."""

CLAIMS: Mapping[str, str] = {
    "nbf": "nbf",
    "exp": "exp",
    "domain_id": "d",
    "room_name": "r",
    "user_id": "ud",
    "user_name": "u",
    "is_owner": "o",
    "knocking": "k",
    "close_tab_on_exit": "ctoe",
    "redirect_on_meeting_exit": "rome",
    "intercom_join_alert": "ij",
    "start_cloud_recording": "sr",
    "start_cloud_recording_opts": "sro",
    "auto_start_transcription": "ast",
    "enable_recording": "er",
    "enable_screenshare": "ss",
    "start_video_off": "vo",
    "start_audio_off": "ao",
    "meeting_join_hook": "mjh",
    "eject_at_token_exp": "ejt",
    "eject_after_elapsed": "eje",
    "lang": "uil",
    "enable_recording_ui": "erui",
    "permissions": "p",
}
"""Property → claim of a token: the table of Daily's page on tokens that are signed by oneself."""


class Lost(Exception):
    """The connection breaks without an answer."""


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One that came in."""

    method: str
    path: str
    body: Any
    at: float

    @property
    def words(self) -> str:
        return f"{self.method} {self.path}"


class FakeDaily:
    """One domain.

    Args:
        seconds: How long an answer takes.
        on_change: Told of a room that was created or deleted.
        post: Sends webhooks.

    Attributes:
        card: Whether the account has a payment method: without one nobody joins, and there are no webhooks.
        paid: Whether its plan lets rooms limit their participants.
        hipaa: Whether the domain is a HIPAA one, which names its rooms itself.
        forgets: Properties that its rooms never have, whatever is asked for.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seconds: Callable[[], float] = lambda: 0.0,
        on_change: Callable[[str, str], None] = lambda what, name: None,
        post: Post | None = None,
    ) -> None:
        self.card = self.paid = True
        self.hipaa = False
        self.forgets: frozenset[str] = frozenset()
        self.domain_id = DOMAIN_ID
        self.meetings = Meetings(self)
        self.webhooks = Webhooks(clock.now, post)
        self.looks: list[Call] = []
        """Calls for the domain's configuration."""
        self.calls: list[Call] = []
        """All others."""
        self.faults: deque[tuple[str, Fault]] = deque()
        """Faults of the next calls: `("POST /rooms", "lost reply")`; those of other methods pass."""
        self.dark = False
        """True if no call is answered, and none comes through."""
        self.held: asyncio.Event | None = None
        """Calls wait for it."""
        self._clock = clock
        self._seconds = seconds
        self._on_change = on_change
        self._rooms: dict[str, dict[str, Any]] = {}
        self._times: dict[str, deque[float]] = {kind: deque() for kind in LIMITS}

    @property
    def rooms(self) -> dict[str, dict[str, Any]]:
        """Name → room, of those that are there: one that has expired is deleted by itself."""
        now = self._clock.now()
        return {
            name: room
            for name, room in self._rooms.items()
            if room["config"].get("exp") is None or now < room["config"]["exp"]
        }

    def fail(self, call: str, *faults: Fault) -> None:
        """Let the next calls of that kind, such as `POST /rooms`, fail."""
        self.faults.extend((call, fault) for fault in faults)

    def add(self, name: str, **room: Any) -> None:
        """Somebody else has created a room."""
        self._create({"name": name, **room})

    def called(self, call: str) -> list[Call]:
        """The calls of that kind."""
        return [one for one in self.calls if re.match(rf"{call}(/|$)", one.words)]

    def admits(self, name: str, token: str) -> dict[str, Any] | None:
        """Return Daily's view of who comes to a room with this token; None for one whom it turns away."""
        room = self.rooms.get(name)
        try:
            claims = self.read_token(token)
        except jwt.InvalidTokenError:
            return None
        if room is None or claims.get("room_name") != name or claims.get("exp", 0) <= self._clock.now():
            return None
        return claims

    def read_token(self, token: str) -> dict[str, Any]:
        """The properties of a token of this domain. Raises jwt.InvalidTokenError."""
        claims = jwt.decode(token, API_KEY, algorithms=["HS256"], options={"verify_exp": False})
        if claims.get("d") != self.domain_id:
            raise jwt.InvalidTokenError("another domain's")
        names = {claim: name for name, claim in CLAIMS.items()}
        return {names.get(claim, claim): value for claim, value in claims.items()}

    def known(self, name: str) -> dict[str, Any] | None:
        """A room, even one that has expired."""
        return self._rooms.get(name)

    def now(self) -> float:
        return self._clock.now()

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Raises Lost where no answer comes."""
        call = Call(method, path, json.loads(body) if body else None, self._clock.now())
        (self.looks if path in ("", "/") else self.calls).append(call)
        if self.held is not None:
            await self.held.wait()
        if seconds := self._seconds():
            await self._clock.sleep(seconds)
        fault = self._fault(call)
        if self.dark or fault == "lost request":
            raise Lost
        if call.path.startswith("/webhooks") and fault is None:
            answer = self._early(call, headers) or await self._webhook(call)
            check_answer(call.method, call.path, answer.status, answer.body)
            return answer
        answer = self._serve(call, headers, fault)
        if fault == "lost reply":
            raise Lost
        if fault == "another room":
            return replace(answer, body={**answer.body, "name": "somebody-elses"})
        return Answer(200, "<html>") if fault == "garbage" else answer

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer a call, at once and without a fault."""
        call = Call(method, path, json.loads(body) if body else None, self._clock.now())
        return self._serve(call, headers, None)

    def _serve(self, call: Call, headers: Mapping[str, str], fault: Fault | None) -> Answer:
        answer = self._answer(call, headers, fault)
        check_answer(call.method, call.path, answer.status, answer.body)
        return answer

    def _early(self, call: Call, headers: Mapping[str, str]) -> Answer | None:
        """The answer to a call that is not looked at."""
        if headers.get("authorization") != f"Bearer {API_KEY}":
            return _error(401, "authentication-error", "")
        if self._is_too_early(call.method):
            return _error(429, "rate-limit-error", "too many requests")
        return None

    def _answer(self, call: Call, headers: Mapping[str, str], fault: Fault | None) -> Answer:
        if early := self._early(call, headers):
            return early
        if fault == "throttled":
            return _error(429, "rate-limit-error", "too many requests")
        if fault == "failed":
            return _error(500, "server-error", "")
        if fault == "refused":
            return _error(403, "forbidden-error", f"not for {API_KEY}")
        return self._act(call)

    def _fault(self, call: Call) -> Fault | None:
        for index, (kind, fault) in enumerate(self.faults):
            if re.match(rf"{kind}(/|$)", call.words):
                del self.faults[index]
                return fault
        return None

    def _is_too_early(self, method: str) -> bool:
        kind, now = "delete" if method == "DELETE" else "other", self._clock.now()
        most, seconds = LIMITS[kind]
        times = self._times[kind]
        while times and times[0] <= now - seconds:
            times.popleft()
        if len(times) >= most:
            return True
        times.append(now)
        return False

    def _act(self, call: Call) -> Answer:
        try:
            check_call(call.method, call.path, call.body)
        except IllFormed as error:
            return _error(400, "invalid-request-error", str(error))
        if call.method == "GET" and call.path == "/":
            config = {"hipaa": self.hipaa, "lang": "en"}
            return Answer(200, {"domain_name": DOMAIN, "domain_id": self.domain_id, "config": config})
        if call.words == "POST /rooms":
            return self._create(call.body)
        if call.words == "POST /meeting-tokens":
            return self._token(call.body["properties"])
        name = call.path.removeprefix("/rooms/")
        room = self.rooms.get(name)
        if room is None:
            return _error(404, "not-found", "")
        if call.method == "GET":
            return Answer(200, room)
        if call.method == "DELETE":
            del self._rooms[name]
            self.meetings.put_out(name)
            self._on_change("deleted", name)
            return Answer(200, {"deleted": True, "name": name})
        return _error(404, "not-found", "")

    async def _webhook(self, call: Call) -> Answer:
        try:
            check_call(call.method, call.path, call.body)
        except IllFormed as error:
            return _error(400, "invalid-request-error", str(error))
        if not self.card:
            return _error(403, "forbidden-error", "add a credit card to your account to unlock webhooks")
        id = call.path.removeprefix("/webhooks").strip("/") or None
        if id is not None and id not in self.webhooks.all:
            return _error(404, "not-found", "")
        if call.method == "GET":
            return Answer(200, list(self.webhooks.all.values()) if id is None else self.webhooks.all[id])
        if call.method == "DELETE" and id is not None:
            del self.webhooks.all[id]
            return Answer(200, {"deleted": True})
        saved = await self.webhooks.save(call.body, id)
        if saved is None:
            return _error(400, "invalid-request-error", "the webhook url did not return a 200")
        return Answer(200, saved)

    def _create(self, body: dict[str, Any]) -> Answer:
        name, properties = body.get("name") or uuid.uuid4().hex[:20], body.get("properties", {})
        if self.hipaa and "name" in body:
            return _error(400, "invalid-request-error", "name is not allowed for HIPAA-compliant domains")
        if not self.paid and "max_participants" in properties:
            return _error(400, "invalid-request-error", "max_participants is not available on your plan")
        if name in self.rooms:
            return _error(400, "invalid-request-error", f"a room named {name} already exists")
        if "exp" in properties and properties["exp"] <= self._clock.now():
            return _error(400, "invalid-request-error", "exp is in the past")
        self._rooms[name] = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
            "name": name,
            "api_created": True,
            "privacy": body.get("privacy", "public"),
            "url": f"https://{DOMAIN}.daily.co/{name}",
            "created_at": "2026-01-01T00:00:00.000Z",
            "config": {name: value for name, value in properties.items() if name not in self.forgets},
        }
        self._on_change("created", name)
        return Answer(200, self._rooms[name])

    def _token(self, properties: dict[str, Any]) -> Answer:
        claims = {CLAIMS[name]: value for name, value in properties.items()}
        claims |= {"d": self.domain_id, "iat": int(self._clock.now())}
        return Answer(200, {"token": jwt.encode(claims, API_KEY, algorithm="HS256")})


def _error(status: int, error: str, info: str) -> Answer:
    return Answer(status, {"error": error, "info": info})


class InPlaceOfTheNetwork(httpx.AsyncBaseTransport):
    """Leads an httpx client to the fake, without a socket."""

    def __init__(self, daily: FakeDaily) -> None:
        self._daily = daily

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        try:
            answer = await self._daily.answer(request.method, path, request.headers, await request.aread())
        except Lost:
            raise httpx.ReadError("the connection was reset", request=request) from None
        if isinstance(answer.body, str):
            return httpx.Response(answer.status, headers=answer.headers, text=answer.body)
        return httpx.Response(answer.status, headers=answer.headers, json=answer.body)


def app(daily: FakeDaily) -> Callable[..., Any]:
    """The fake as an ASGI app. What is lost is answered with 502, as by a proxy."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # a client that is gone before its request was whole has asked for nothing
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/join":
            await attend(daily.meetings, receive, send, json.loads(body))
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        try:
            answer = await daily.answer(scope["method"], scope["path"].removeprefix("/v1"), headers, body)
        except Lost:
            answer = Answer(502, "bad gateway")
        content = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
        kind = b"text/html" if isinstance(answer.body, str) else b"application/json"
        given = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        start = {"type": "http.response.start", "status": answer.status}
        await send({**start, "headers": [(b"content-type", kind), *given]})
        await send({"type": "http.response.body", "body": content})

    return serve
