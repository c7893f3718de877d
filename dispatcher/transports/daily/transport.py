"""Daily: the bot and its client meet in a private room of the deployment's Daily domain.

The room's name follows from the session's id, so whoever asks for it again finds it. It closes by itself,
with whoever is in it, at the session's latest end: should nobody be left to delete it, nobody stays in it.

Tokens carry no `eject…` of their own, because these override the room's. Only the bot's is an owner's.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Collection
from itertools import count
from typing import Any

from dispatcher.clock import Clock
from dispatcher.tasks import end_tasks
from dispatcher.transports.daily import properties as daily_properties
from dispatcher.transports.daily import tokens as daily_tokens
from dispatcher.transports.daily.client import DailyApi
from dispatcher.transports.daily.domain import DailyDomain
from dispatcher.transports.daily.names import room_name
from dispatcher.transports.errors import NoAnswer, Refused, TooManyCalls
from dispatcher.transports.transport import Prepared, Room, Wanted

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 4.0
"""Pauses between look-ups of a room whose creation was not answered, or between attempts to create it."""


class Daily:
    """The `daily` transport.

    Args:
        domain: The domain's name: its rooms are at `https://<domain>.daily.co/…`.
        api_key: The domain's.
        domain_id: With it tokens are signed here; without it Daily is asked for each.
    """

    ready_needs_client = False

    def __init__(self, api: DailyApi, domain: str, api_key: str, domain_id: str | None, clock: Clock) -> None:
        self._api = api
        self._domain = domain
        self._key = api_key
        self._domain_id = domain_id
        self.prepare_calls = domain_id is None
        self._clock = clock
        self._known = DailyDomain(api, domain, domain_id, clock)

    async def run(self) -> None:
        await self._known.run()

    def check(self, wanted: Wanted, allowed: Collection[str] = ()) -> None:
        daily_properties.check(wanted.room, wanted.token, allowed, self._clock.now())

    async def prepare(self, session_id: str, wanted: Wanted, until: float, deadline: float) -> Prepared:
        if self._known.wrong:
            raise Refused(self._known.wrong, nowhere=True)
        name = room_name(session_id)
        known = {"room_name": name, "exp": math.ceil(until)}
        tokens = [
            asyncio.ensure_future(self._token({**given, **known, "is_owner": owner}, deadline))
            for given, owner in (({}, True), (wanted.token, False))
        ]
        try:
            bots, clients = await asyncio.gather(*tokens)
        finally:
            await end_tasks(*tokens)
        url = f"https://{self._domain}.daily.co/{name}"
        return Prepared(
            client={"dailyRoom": url, "dailyToken": clients}, room=Room(url, bots, dict(wanted.room))
        )

    async def open_room(
        self,
        session_id: str,
        room: Room,
        until: float,
        deadline: float,
        confirm: Callable[[], Awaitable[None]],
    ) -> bool:
        name = room_name(session_id)
        exp = math.ceil(min(room.properties.get("exp", until), until))
        if exp <= self._clock.now():
            raise Refused(
                f"{name} was not requested: its `exp` has passed.",
                nowhere=True,
                caller_fault="dailyRoomProperties.exp had passed when the session's turn came.",
            )
        # Pipecat's own rooms have no pre-join page either: a caller is in the call with one click.
        properties = {"enable_prejoin_ui": False, **room.properties, "exp": exp, "eject_at_room_exp": True}
        answered = True
        for attempt in count():
            try:
                found = await self._api.create_room(name, properties, deadline, confirm)
            except TooManyCalls as error:
                # Daily executed none of the throttled calls.
                raise TooManyCalls(str(error), error.retry_after, nowhere=answered) from error
            except Refused as error:
                # The message for a taken name may change, so look the room up.
                found = await self._taken(name, _in_words(error, room), deadline, answered=answered)
            except NoAnswer as error:
                answered = False
                found = await self._look_up(name, deadline, error, confirm)
                if found is None:
                    await self._rest(attempt, deadline, error)
                    continue
            _verify(found, name, room.url, exp)
            return answered
        raise AssertionError("the loop returns or raises")

    async def close_room(self, session_id: str, deadline: float) -> None:
        await self._api.delete_room(room_name(session_id), deadline)

    async def close(self) -> None:
        await self._api.close()

    async def _token(self, properties: dict[str, Any], deadline: float) -> str:
        if self._domain_id is None:
            return await self._api.meeting_token(properties, deadline)
        return daily_tokens.sign(properties, self._key, self._domain_id, self._clock.now())

    async def _taken(self, name: str, refusal: Refused, deadline: float, *, answered: bool) -> dict[str, Any]:
        """Return the room of that name, after a creation that was refused."""
        try:
            found, known = await self._api.room(name, deadline), True
        except Refused:
            found, known = None, refusal.nowhere
        if found is None:
            # An earlier, unanswered call may still take effect.
            raise Refused(
                str(refusal), nowhere=known and answered, caller_fault=refusal.caller_fault
            ) from refusal
        return found

    async def _look_up(
        self, name: str, deadline: float, lost: NoAnswer, confirm: Callable[[], Awaitable[None]]
    ) -> dict[str, Any] | None:
        """Return the room, after a creation without an answer; None if it does not exist by now."""
        for attempt in count():
            try:
                return await self._api.room(name, deadline)
            except NoAnswer:
                await self._rest(attempt, deadline, lost)
                # The room may no longer be wanted after an outage.
                await confirm()
        raise AssertionError("the loop returns or raises")

    async def _rest(self, attempt: int, deadline: float, lost: NoAnswer) -> None:
        """Wait before the next attempt; raise the lost error if none is left."""
        wait = min(FIRST_PAUSE_SECONDS * 2 ** min(attempt, 16), LONGEST_PAUSE_SECONDS)
        if self._clock.now() + wait >= deadline:
            raise lost
        await self._clock.sleep(wait)


def _in_words(refusal: Refused, room: Room) -> Refused:
    """Name the properties of the start request that the refusal names: the account's plan may lack them."""
    words = set(re.findall(r"\w+", str(refusal)))
    named = [f"dailyRoomProperties.{name}" for name in room.properties if name in words]
    if not named:
        return refusal
    fault = f"Daily does not accept {', '.join(named)}: leave it out, or use a plan that has it."
    return Refused(str(refusal), nowhere=refusal.nowhere, caller_fault=fault)


def _verify(found: dict[str, Any], name: str, url: str, exp: int) -> None:
    """Check that the room is the session's, private, and ends for everybody with the session.

    Raises:
        Refused: it is not.
    """
    config = found.get("config")
    config = config if isinstance(config, dict) else {}
    seen = {
        "name": found.get("name"),
        "privacy": found.get("privacy"),
        "url": found.get("url"),
        "exp": config.get("exp"),
        # An answer omits config values that equal the defaults. A missing one is the domain's, which this
        # answer does not contain.
        "eject_at_room_exp": config.get("eject_at_room_exp", True),
    }
    wanted = {"name": name, "privacy": "private", "url": url, "exp": exp, "eject_at_room_exp": True}
    wrong = [
        f"{what} is {seen[what]!r}, not {wanted[what]!r}" for what in wanted if seen[what] != wanted[what]
    ]
    if wrong:
        raise Refused(f"Daily's room differs from the request: {'; '.join(wrong)}")
