"""Webhooks of phone carriers: a call starts a session, and is answered with the carrier's own words."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from dispatcher.api.bodies import read_body
from dispatcher.api.openapi import problems
from dispatcher.api.start import Starter
from dispatcher.clock import Clock
from dispatcher.domain import idempotency
from dispatcher.domain.errors import InvalidRequest, KeyReused, SessionError, UnknownAgent
from dispatcher.domain.model import Session
from dispatcher.repeated_warning import RepeatedWarning
from dispatcher.sessions.service import SessionService
from dispatcher.sessions.starts import Start
from dispatcher.settings import AgentSettings
from dispatcher.store.store import Store
from dispatcher.telemetry.traces import Traces
from dispatcher.telephony.settings import AgentPhone
from dispatcher.telephony.webhook import (
    MAX_BODY_BYTES,
    Answer,
    Around,
    Call,
    Carrier,
    Directed,
    Forged,
    Malformed,
    Webhook,
)
from dispatcher.tokens import SessionTokens

log = logging.getLogger(__name__)

TRANSPORT = "websocket"

CALLED_BY_GET = ("exotel",)
"""Carriers whose webhooks of a call come as GET."""

OVER = frozenset({"completed", "busy", "failed", "no-answer", "canceled", "cancel", "timeout", "hangup"})
"""Values of `CallStatus` (Exotel: `Status`) of a call that is over, at all carriers."""


class StreamAddress(BaseModel):
    """The answer to Exotel."""

    url: str


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The carrier's instructions: XML, or JSON for Exotel.",
        "model": StreamAddress,
        "content": {"application/xml": {}},
    }
}
_FORM = {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}}
_DESCRIBED: dict[str, Any] = {
    "responses": {**_ANSWERS, **problems(401, 404, 413, 422, 429, 502)},
    "openapi_extra": {"requestBody": _FORM},
}


class Phones:
    """Reads carriers' webhooks and words the answers.

    Args:
        carriers: Name → carrier, of those that have an account.
        public_url: The URL under which carriers reach the dispatcher; None for that of each request.
    """

    def __init__(
        self,
        carriers: Mapping[str, Carrier],
        service: SessionService,
        store: Store,
        clock: Clock,
        public_url: str | None,
    ) -> None:
        self._carriers = carriers
        self._service = service
        self._store = store
        self._clock = clock
        self._public_url = public_url.rstrip("/") if public_url else None
        self._refusals = RepeatedWarning(log, "carriers' webhooks were refused: %d since the last line: %s")

    async def read(self, name: str, agent: str, request: Request) -> tuple[Carrier, AgentSettings, Call]:
        """Read a webhook, and verify that it is the carrier's.

        Raises:
            HTTPException: it is refused; 401 if it is not the carrier's.
        """
        carrier = self._carriers.get(name)
        if carrier is None or (request.method == "GET" and name not in CALLED_BY_GET):
            taken = ", ".join(self._carriers) or "none"
            raise HTTPException(
                404, f"No webhooks of '{name}' are taken here so; there are accounts at: {taken}."
            )
        body = await read_body(request, MAX_BODY_BYTES)
        webhook = Webhook(request.method, self.url(request), request.headers, body)
        try:
            carrier.verify(webhook, self._clock.now())
            call = carrier.call(webhook)
        except Forged as forged:
            self._refusals.warn(self._clock.monotonic(), f"{name}: {forged}")
            raise HTTPException(401, f"{forged}.") from forged
        except Malformed as malformed:
            raise InvalidRequest(f"{malformed}.") from malformed
        # Only now: who is not the carrier learns of no agent.
        settings = self._service.agents.get(agent)
        if settings is None or TRANSPORT not in settings.transports:
            able = [one for one, of in self._service.agents.items() if TRANSPORT in of.transports]
            raise UnknownAgent(
                f"There is no agent '{agent}' with the transport {TRANSPORT}; allowed: {', '.join(able)}."
            )
        return carrier, settings, call

    def url(self, request: Request) -> str:
        """Return the URL that the carrier called, as it signed it."""
        if self._public_url is None:
            return str(request.url)
        query = f"?{request.url.query}" if request.url.query else ""
        return f"{self._public_url}{request.url.path}{query}"

    def stream_url(self, request: Request, session: Session, token: str) -> str:
        parts = urlsplit(self.url(request))
        scheme = "wss" if parts.scheme == "https" else "ws"
        return f"{scheme}://{parts.netloc}/sessions/{session.id}/ws/{token}"

    async def session_of(self, call: Call) -> Session | None:
        """Return the session that the call has started; None if it has not."""
        claim = await self._store.claim(idempotency.claim_id(owner_of(call), key_of(call)), self._clock.now())
        return None if claim is None else await self._store.session(claim.session_id)

    async def gone(self, session: Session, carrier: str) -> None:
        """Take the carrier's word that the call is over. If its caller was never with the bot, nobody else
        tells; otherwise its WebSocket does, and the bot ends in its own time."""
        if not session.over and session.active_at is None:
            with contextlib.suppress(SessionError):  # its row is gone
                await self._service.stop(session.id, f"{carrier}, which says that the call is over")


def owner_of(call: Call) -> str:
    """Return the scope of calls' idempotency keys; no API key has such a name."""
    return f"/telephony/{call.carrier}"


def key_of(call: Call) -> str:
    return call.id


def body_of(call: Call) -> dict[str, Any]:
    """Return what the bot gets as `body`: the numbers under the names of Pipecat's `CallData`, and the custom
    parameters."""
    own = {"carrier": call.carrier, "call_id": call.id, "from_number": call.caller, "to_number": call.called}
    return {**call.parameters, **own}


def without_machine(carrier: Carrier, phone: AgentPhone) -> Answer | None:
    """Return the answer to a call that gets no bot; None if the carrier takes no instructions."""
    if not isinstance(carrier, Directed):
        return None
    if phone.forward_to:
        return carrier.forward(phone.forward_to)
    return carrier.say(phone.message) if phone.message else carrier.busy()


def add_routes(
    routes: APIRouter, phones: Phones, starter: Starter, tokens: SessionTokens, traces: Traces
) -> None:
    """Add the routes: a call, the end of its stream, and its status."""

    async def of_call(carrier: str, agent: str, request: Request) -> Response:
        with traces.serve("POST", "/telephony/{carrier}/{agent}", None) as served:
            at, settings, call = await phones.read(carrier, agent, request)
            phone = settings.phone
            start = Start(
                agent=agent,
                transport=TRANSPORT,
                body=body_of(call),
                queue_seconds=min(phone.queue_seconds, settings.max_queue_seconds),
                by=carrier,
                owner=owner_of(call),
                key=key_of(call),
                traceparent=served.traceparent,
            )
            try:
                session = (await starter.start(start, served)).session
            except KeyReused:
                raise
            except (SessionError, SQLAlchemyError) as error:
                log.warning("a call by %s for agent %s gets no bot: %s", carrier, agent, error)
                return _written(without_machine(at, phone), error)
            if session.over:
                return _written(_after(at, session, phone), None)
            url = phones.stream_url(request, session, tokens.issue_for_call(session, carrier))
            around = Around(
                phone.greeting, phone.greeting_url, f"{phones.url(request).partition('?')[0]}/after"
            )
            served.status = 200
            return _written(at.stream(url, call, around), None)

    @routes.post("/telephony/{carrier}/{agent}", summary="Take a phone call", **_DESCRIBED)
    async def call(carrier: str, agent: str, request: Request) -> Response:
        return await of_call(carrier, agent, request)

    @routes.get(
        "/telephony/{carrier}/{agent}",
        summary="Take a phone call (Exotel)",
        responses={**_ANSWERS, **problems(401, 404, 422, 429, 502)},
    )
    async def call_by_get(carrier: str, agent: str, request: Request) -> Response:
        return await of_call(carrier, agent, request)

    @routes.post(
        "/telephony/{carrier}/{agent}/after", summary="Tell a call what follows its stream", **_DESCRIBED
    )
    async def after(carrier: str, agent: str, request: Request) -> Response:
        at, settings, call = await phones.read(carrier, agent, request)
        session = await phones.session_of(call)
        if session is None:
            raise HTTPException(404, "There is no session of this call.")
        await phones.gone(session, carrier)
        return _written(_after(at, session, settings.phone), None)

    @routes.post("/telephony/{carrier}/{agent}/status", summary="Take a call's status", **_DESCRIBED)
    async def status(carrier: str, agent: str, request: Request) -> Response:
        _, _, call = await phones.read(carrier, agent, request)
        if call.status.lower() in OVER and (session := await phones.session_of(call)) is not None:
            await phones.gone(session, carrier)
        return Response("<Response/>", media_type="application/xml")


def _after(carrier: Carrier, session: Session, phone: AgentPhone) -> Answer | None:
    """Return the answer to a call whose stream is over: hang up, unless no bot was ever with its caller."""
    if not isinstance(carrier, Directed):
        return None
    # A call that was answered cannot be busy any more.
    if session.state == "failed" and session.active_at is None and (phone.forward_to or phone.message):
        return without_machine(carrier, phone)
    return carrier.hang_up()


def _written(answer: Answer | None, error: Exception | None) -> Response:
    if answer is not None:
        return Response(answer.body, media_type=answer.media_type)
    if error is not None:
        raise error
    raise HTTPException(404, "The call is over.")
