"""The session's one peer connection: offers, renegotiations and ICE candidates of SmallWebRTC.

Importing this module imports aiortc (0.1 s), so the runtime does it on the loader's thread. Pipecat's own
request handler would do, but it imports FastAPI, which costs as much again before the answer can go out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from aiortc.exceptions import InvalidAccessError, OperationError
from aiortc.rtcicetransport import RTCIceCandidate
from aiortc.sdp import SessionDescription, candidate_from_sdp
from pipecat.transports.smallwebrtc.connection import IceServer as PipecatIceServer
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from bot.logs import logger
from bot.problems import Problem
from bot.protocol import IceServer

_Model = TypeVar("_Model", bound=BaseModel)

_MEANINGLESS = (ValueError, AssertionError, KeyError, IndexError, InvalidAccessError, OperationError)
"""Errors that aiortc raises for a description that is well-formed but allows no connection."""


class Offer(BaseModel):
    sdp: str
    type: Literal["offer"]
    pc_id: str | None = None
    restart_pc: bool | None = None
    request_data: Any = Field(default=None, validation_alias=AliasChoices("request_data", "requestData"))


class Candidate(BaseModel):
    candidate: str
    sdp_mid: str | None = None
    sdp_mline_index: int | None = None


class Candidates(BaseModel):
    pc_id: str
    candidates: list[Candidate] = []


class Peer:
    """The session's only connection: one session is one bot, and one client talks to it.

    Args:
        ice_servers: STUN and TURN servers for the bot's own candidates.
        connected: Called with the connection and the client's request data, once, after the first offer.
        closed: Called when the client has gone.
    """

    def __init__(
        self,
        ice_servers: Sequence[IceServer],
        connected: Callable[[SmallWebRTCConnection, Any], None],
        closed: Callable[[], None],
    ) -> None:
        self._ice_servers = [
            PipecatIceServer(urls=list(server.urls), username=server.username, credential=server.credential)
            for server in ice_servers
        ]
        self._connected = connected
        self._closed = closed
        self._connection: SmallWebRTCConnection | None = None
        # Serialized: one offer at a time, and no candidate during an offer.
        self._negotiation = asyncio.Lock()

    async def offer(self, body: bytes) -> dict[str, str]:
        """Answer an offer: `{sdp, type, pc_id}`.

        Raises:
            Problem: it is malformed, or for a connection that is not this session's.
        """
        offer = _parse(Offer, body)
        _check_sdp(offer.sdp)
        async with self._negotiation:
            try:
                return await self._negotiate(offer)
            except _MEANINGLESS as error:
                raise _bad_field("sdp", f"no connection can be made from it: {error}") from error

    async def candidates(self, body: bytes) -> dict[str, str]:
        """Add the client's ICE candidates.

        Raises:
            Problem: they are malformed, or for another connection.
        """
        batch = _parse(Candidates, body)
        parsed = [_candidate(index, given) for index, given in enumerate(batch.candidates)]
        async with self._negotiation:
            connection = self._connection
            if connection is None or connection.pc_id != batch.pc_id:
                raise _unknown(batch.pc_id)
        # Concurrently: the lookup of a `.local` name outside this network takes a second to fail.
        await asyncio.gather(*(connection.add_ice_candidate(candidate) for candidate in parsed if candidate))
        if None in parsed:
            await connection.add_ice_candidate(None)
        return {"status": "success"}

    async def close(self) -> None:
        """Hang up, so that the client learns at once that the bot is gone."""
        if self._connection is not None:
            await self._connection.disconnect()

    async def _negotiate(self, offer: Offer) -> dict[str, str]:
        connection = self._connection
        if connection is None:
            return await self._first(offer)
        if offer.pc_id is not None and offer.pc_id != connection.pc_id:
            raise _unknown(offer.pc_id)
        # A closed connection cannot be renegotiated; a client that returns gets a new one.
        restart = bool(offer.restart_pc) or connection.pc.connectionState in ("closed", "failed")
        if offer.pc_id is None:
            # A client whose first answer was lost offers again, with a new peer connection and no pc_id.
            if connection.pc.connectionState == "connected":
                raise Problem(409, "session-taken", "A client is connected to this session already.")
            restart = True
        await connection.renegotiate(sdp=offer.sdp, type=offer.type, restart_pc=restart)
        return _answer(connection)

    async def _first(self, offer: Offer) -> dict[str, str]:
        connection = SmallWebRTCConnection(ice_servers=self._ice_servers)
        try:
            await connection.initialize(sdp=offer.sdp, type=offer.type)
        except Exception:
            with contextlib.suppress(Exception):
                await connection.pc.close()
            raise
        connection.add_event_handler("closed", self._on_closed)
        self._connection = connection
        # Until the bot's pipeline reads audio, it is dropped instead of queued.
        connection.audio_input_track()
        self._connected(connection, offer.request_data)
        return _answer(connection)

    async def _on_closed(self, _connection: SmallWebRTCConnection) -> None:
        self._closed()


def _answer(connection: SmallWebRTCConnection) -> dict[str, str]:
    answer = connection.get_answer()
    if answer is None:
        raise RuntimeError("the peer connection has no answer to the offer")
    return answer


def _parse(model: type[_Model], body: bytes) -> _Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        shown = repr(first["input"])
        raise _bad_field(
            field, f"{first['msg']} (got {shown if len(shown) <= 80 else shown[:80] + '…'})"
        ) from error


def _check_sdp(sdp: str) -> None:
    try:
        media = SessionDescription.parse(sdp).media
    except Exception as error:
        raise _bad_field("sdp", f"not a session description: {type(error).__name__}: {error}") from error
    if not media:
        raise _bad_field("sdp", "not a session description with any media in it")


def _candidate(index: int, given: Candidate) -> RTCIceCandidate | None:
    """Return the candidate in aiortc's form; None for an empty one, which ends them (RFC 8840)."""
    if not given.candidate:
        return None
    try:
        candidate = candidate_from_sdp(given.candidate)
    except (ValueError, AssertionError, IndexError) as error:
        logger.debug(f"malformed candidate {given.candidate!r}: {error!r}")
        text = f"not an ICE candidate (got {given.candidate[:80]!r})"
        raise _bad_field(f"candidates.{index}.candidate", text) from error
    if given.sdp_mid is None and given.sdp_mline_index is None:
        raise _bad_field(f"candidates.{index}.sdp_mid", "it or sdp_mline_index must be given")
    candidate.sdpMid = given.sdp_mid
    candidate.sdpMLineIndex = given.sdp_mline_index
    return candidate


def _bad_field(field: str, text: str) -> Problem:
    return Problem(400, "bad-request", f"{field}: {text}")


def _unknown(pc_id: str) -> Problem:
    return Problem(404, "unknown-connection", f"pc_id '{pc_id}' is not the connection of this session.")
