"""Daily's REST API: the five calls used here, within Daily's rate limits and the caller's deadlines.

Errors are HTTP statuses with a body of `error` (a stable code) and `info` (for people, may change).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, TypeVar

import httpx

from dispatcher.clock import Clock
from dispatcher.rate_limit import Rate, TokenBucket
from dispatcher.tasks import within
from dispatcher.transports.calls import OnRoomCall, RoomAction, RoomCall, outcome_of, unobserved
from dispatcher.transports.errors import NoAnswer, Refused, RoomError, TooManyCalls

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_SECONDS = 10.0
"""Limit on one call."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses after a 429 without `Retry-After`. Daily counts over windows of 5 and of 30 s."""

MAX_WORDS = 300
"""Limit on the characters of the API's message that are passed on."""

Kind = Literal["delete", "other"]
"""Kinds of calls, each with its rate limit."""


class Request(NamedTuple):
    """The request of an action."""

    kind: Kind
    method: str
    gives: str | None = None
    """A member that its answer must have: a text of this name."""


REQUESTS: dict[RoomAction, Request] = {
    "get_domain": Request("other", "GET", gives="domain_id"),
    "create_room": Request("other", "POST"),
    "get_room": Request("other", "GET"),
    "delete_room": Request("delete", "DELETE"),
    "create_token": Request("other", "POST", gives="token"),
}

RATES: dict[Kind, Rate] = {
    # Documented: about 2 a second, or 50 in 30 s. This rate stays below 50 in any 30 s.
    "delete": Rate(per_second=1.5, burst=5),
    # Documented: 20 a second, or 100 in 5 s.
    "other": Rate(per_second=18.0, burst=10),
}
"""Rate limits of this process. All users of a domain share Daily's limits; calls over them get a 429."""


async def _unconfirmed() -> None:
    """Allow the call without asking anybody."""


class DailyApi:
    """Client of the API.

    Args:
        http: Answers instead of the API at `url`.
        on_call: Called after every call.
    """

    def __init__(
        self,
        api_key: str,
        url: str,
        clock: Clock,
        http: httpx.AsyncBaseTransport | None = None,
        on_call: OnRoomCall = unobserved,
    ) -> None:
        self._key = api_key
        self._clock = clock
        self._on_call = on_call
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=None,  # noqa: S113 - `within` has it
            transport=http,
            # The environment's proxy is only for the real API.
            trust_env=http is None,
        )
        self._buckets: dict[Kind, TokenBucket] = {kind: TokenBucket(rate) for kind, rate in RATES.items()}

    async def close(self) -> None:
        await self._client.aclose()

    async def domain(self, deadline: float) -> dict[str, Any]:
        """Return the domain of the API key: its `domain_name`, `domain_id` and `config`."""
        found = await self._call("get_domain", "/", deadline)
        if found is None:
            raise Refused("Daily answers 404: daily_api_url (daily.apiUrl) is not that of its REST API")
        return found

    async def create_room(
        self,
        name: str,
        properties: dict[str, Any],
        deadline: float,
        confirm: Callable[[], Awaitable[None]] = _unconfirmed,
    ) -> dict[str, Any]:
        """Create a private room. A taken name is `Refused`, too.

        Args:
            confirm: Called before each call to the API; its exception ends the call.
        """
        body = {"name": name, "privacy": "private", "properties": properties}
        return _about(name, _whole(await self._call("create_room", "/rooms", deadline, body, confirm)))

    async def room(self, name: str, deadline: float) -> dict[str, Any] | None:
        """Return a room, or None if there is none of that name."""
        found = await self._call("get_room", f"/rooms/{name}", deadline)
        return None if found is None else _about(name, found)

    async def delete_room(self, name: str, deadline: float) -> None:
        """Delete a room, if it is there."""
        deleted = await self._call("delete_room", f"/rooms/{name}", deadline)
        if deleted is not None:
            _about(name, deleted)

    async def meeting_token(self, properties: dict[str, Any], deadline: float) -> str:
        """Return a token with these properties."""
        body = {"properties": properties}
        return _whole(await self._call("create_token", "/meeting-tokens", deadline, body))["token"]

    async def _call(
        self,
        action: RoomAction,
        path: str,
        deadline: float,
        body: dict[str, Any] | None = None,
        confirm: Callable[[], Awaitable[None]] = _unconfirmed,
    ) -> dict[str, Any] | None:
        """Make a call in its turn, and again while it is throttled and the deadline allows.

        Return None if there is nothing of that name.
        """
        kind = REQUESTS[action].kind
        attempt, words = 0, ""
        while True:
            await self._turn(kind, deadline, words)
            await confirm()
            left = deadline - self._clock.now()
            if left <= 0:
                raise TooManyCalls(words or "the deadline passes before its turn", PAUSES[0])
            try:
                return await self._observed(action, path, body, min(left, CALL_SECONDS))
            except TooManyCalls as error:
                words = str(error)
                pause = max(error.retry_after, PAUSES[min(attempt, len(PAUSES) - 1)])
                attempt += 1
                self._buckets[kind] = self._buckets[kind].hold(self._clock.monotonic(), pause)

    async def _turn(self, kind: Kind, deadline: float, words: str) -> None:
        longest_wait = deadline - self._clock.now()
        bucket = self._buckets[kind]
        self._buckets[kind], wait, taken = bucket.reserve(self._clock.monotonic(), longest_wait)
        if not taken:
            because = words or "Daily takes no more calls"
            raise TooManyCalls(f"{because}; the next one may be made in {wait:.1f} s", wait)
        if wait > 0:
            await self._clock.sleep(wait)

    async def _observed(
        self, action: RoomAction, path: str, body: dict[str, Any] | None, seconds: float
    ) -> dict[str, Any] | None:
        """Make one call, and report its outcome."""
        began, failure = self._clock.monotonic(), None
        try:
            return await self._ask(REQUESTS[action], path, body, seconds)
        except BaseException as error:
            failure = error
            raise
        finally:
            took = self._clock.monotonic() - began
            self._on_call(RoomCall(action, outcome_of(failure), took))

    async def _ask(
        self, request: Request, path: str, body: dict[str, Any] | None, seconds: float
    ) -> dict[str, Any] | None:
        method = request.method
        late = NoAnswer(f"Daily did not answer within {seconds:.0f} s")
        try:
            answer = await within(self._clock, seconds, self._client.request(method, path, json=body), late)
        except httpx.HTTPError as error:
            # Without the exception's text: for a header that could not be sent, it contains the key.
            raise NoAnswer(f"Daily did not answer: {type(error).__name__}") from None
        if answer.status_code == 404 and method != "POST":
            return None
        if answer.status_code != 200:
            raise self._error(method, answer)
        try:
            found = answer.json()
        except ValueError as error:
            raise NoAnswer("Daily's answer is not JSON") from error
        if not isinstance(found, dict):
            raise NoAnswer("Daily's answer is not an object")
        if request.gives is not None and not isinstance(found.get(request.gives), str):
            raise NoAnswer(f"Daily answered without a {request.gives}")
        return found

    def _error(self, method: str, answer: httpx.Response) -> RoomError:
        status, words = answer.status_code, self._words(answer)
        if status == 429:
            return TooManyCalls(f"Daily is throttling: {words}", _retry_after(answer))
        if status >= 500 or status < 400:
            return NoAnswer(f"Daily failed: {words}")
        # A refused call has created nothing, and does not say whether something exists.
        return Refused(f"Daily refuses: {words}", nowhere=method == "POST" and status in (401, 403))

    def _words(self, answer: httpx.Response) -> str:
        """Return the API's message on one line, with the key removed should it appear in it."""
        try:
            told = json.loads(answer.content)
            parts = [str(told[name]) for name in ("error", "info") if told.get(name)]
        except (ValueError, AttributeError, TypeError):
            parts = []
        words = " ".join(f"{answer.status_code} {': '.join(parts)}".replace(self._key, "…").split())
        return words[:MAX_WORDS]


def _whole(answer: dict[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        raise AssertionError("only what has a name can be missing")
    return answer


def _about(name: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer about this room.

    Raises:
        NoAnswer: It is about another room, so nothing is known of this one.
    """
    if (shown := answer.get("name", name)) != name:
        raise NoAnswer(f"Daily answered with room {shown} when asked for {name}")
    return answer


def _retry_after(answer: httpx.Response) -> float:
    """Return `Retry-After` in seconds; 0 if there is no usable one."""
    try:
        seconds = float(answer.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
