"""The meetings of the fake Daily: the people in each room, and those who are not let in.

The words of a refusal are the types that Daily publishes for the event `error` (docs.daily.co, daily-js,
"Error events"): `no-room`, `exp-room`, `exp-token`, `not-allowed`, `meeting-full`, and `ejected` of who is
put out. An account without a card is refused with `account-missing-payment-method`, which is on no page:
clients of accounts that had none report it. An ended room puts out who is in it ("Create a room",
`eject_at_room_exp`); that a deleted one does is on no page, `make smoke` on a real account tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt

if TYPE_CHECKING:
    from tests.daily.fake import FakeDaily

NO_CARD = "account-missing-payment-method"


class JoinRefused(Exception):
    """The text is Daily's word for it."""


@dataclass(eq=False)
class Seat:
    """One participant in a room."""

    room: str
    claims: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    news: asyncio.Queue[dict[str, str]] = field(default_factory=asyncio.Queue)
    """News for the participant: who joined, who left, that it is put out."""


class Meetings:
    """The rooms' participants."""

    def __init__(self, daily: FakeDaily) -> None:
        self._daily = daily
        self.seats: list[Seat] = []

    def of(self, room: str) -> list[Seat]:
        return [seat for seat in self.seats if seat.room == room]

    def join(self, room: str, token: str | None) -> Seat:
        """Let a participant in. Raises JoinRefused."""
        claims = self._admit(room, token)
        seat = Seat(room, claims)
        for other in self.of(room):
            other.news.put_nowait({"event": "joined", "id": seat.id})
            seat.news.put_nowait({"event": "joined", "id": other.id})
        self.seats.append(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        if seat not in self.seats:
            return
        self.seats.remove(seat)
        for other in self.of(seat.room):
            other.news.put_nowait({"event": "left", "id": seat.id})

    def put_out(self, room: str) -> None:
        """End a room's meeting."""
        for seat in self.of(room):
            self.seats.remove(seat)
            seat.news.put_nowait({"event": "ejected"})

    def look(self) -> None:
        """End the meetings of rooms whose time is up."""
        for room in {seat.room for seat in self.seats} - self._daily.rooms.keys():
            self.put_out(room)

    def _admit(self, name: str, token: str | None) -> dict[str, Any]:
        known, now = self._daily.known(name), self._daily.now()
        if known is None:
            raise JoinRefused("no-room")
        config = known["config"]
        if config.get("exp") is not None and config["exp"] <= now:
            raise JoinRefused("exp-room")
        if not self._daily.card:
            raise JoinRefused(NO_CARD)
        claims: dict[str, Any] = {}
        if token is not None:
            try:
                claims = self._daily.read_token(token)
            except jwt.InvalidTokenError:
                raise JoinRefused("not-allowed") from None
            if claims.get("room_name") not in (None, name):
                raise JoinRefused("not-allowed")
            if claims.get("exp", now + 1) <= now:
                raise JoinRefused("exp-token")
        elif known["privacy"] == "private":
            raise JoinRefused("not-allowed")
        if len(self.of(name)) >= config.get("max_participants", 200):
            raise JoinRefused("meeting-full")
        return claims

    @contextlib.asynccontextmanager
    async def joined(self, room: str, token: str | None) -> AsyncIterator[Seat]:
        seat = self.join(room, token)
        try:
            yield seat
        finally:
            self.leave(seat)


async def attend(meetings: Meetings, receive: Any, send: Any, body: dict[str, Any]) -> None:
    """Serve `POST /join`: lines of JSON about one participant, who is there while the connection stands."""

    async def say(line: dict[str, str], *, more: bool = True) -> None:
        text = json.dumps(line).encode() + b"\n"
        await send({"type": "http.response.body", "body": text, "more_body": more})

    headers = [(b"content-type", b"application/x-ndjson")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        seat = meetings.join(body["room"], body.get("token"))
    except JoinRefused as refusal:
        await say({"refused": str(refusal)}, more=False)
        return
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await say({"joined": seat.room, "id": seat.id})
        while not gone.done():
            meetings.look()
            news = asyncio.ensure_future(seat.news.get())
            # A room's end comes without a call: it is looked for.
            await asyncio.wait({news, gone}, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            if not news.done():
                news.cancel()
                continue
            await say(news.result())
            if news.result()["event"] == "ejected":
                break
        if not gone.done():
            await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()
        meetings.leave(seat)


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
