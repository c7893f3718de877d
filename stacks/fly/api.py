"""Fly's Machines API from here: calls that are retried where that is safe, and errors that a person can read.

    StackError
    └── FlyError             Fly did not do what it was asked
        ├── FlyRefused       it said why; the same call would be refused again
        │   └── NoToken      there is none to call it with
        ├── FlyUnanswered    no answer, or a failure of Fly's own: what was asked may have been done
        └── FlyMisread       an answer that is not as Fly describes its API: it is quoted

The token comes with the client and is in no error, state or log.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from dispatcher.machines.fly.protocol import fly_authorization, throttles
from stacks.errors import StackError
from stacks.fly.config import API_URL

T = TypeVar("T")

ANSWER_SECONDS = 70.0
"""For one answer: Fly's own longest is a wait of 60 s."""

TRIES = 5
"""Tries of a call that Fly does not answer, or fails."""

THROTTLED_TRIES = 20
"""Tries of a call that Fly throttles: an action on one machine or app may be asked once a second."""

ADVICE = {
    401: (
        "; the token is no good: it is mistyped, revoked or expired; set FLY_API_TOKEN to one of the "
        "organization's (`fly tokens create org`)"
    ),
    403: (
        "; the token may not do this: the app belongs to another organization (choose another "
        "switchboard:fly.prefix), or the token does (switchboard:fly.org)"
    ),
}
"""Advice for refusals of Fly in few words."""

FIRST_PAUSE_SECONDS, PAUSE_SECONDS = 0.1, 1.0
"""Between two looks. Fly lets a machine be looked at five times a second."""


class FlyError(StackError):
    """Fly did not do what it was asked."""


class FlyRefused(FlyError):
    """Fly refused: the text is its own."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class NoToken(FlyRefused):
    """There is no token to call Fly with."""


class FlyUnanswered(FlyError):
    """The outcome is unknown: look it up before asking again."""


class FlyMisread(FlyError):
    """Fly's answer is not as Fly describes its API."""


class Fly:
    """The Machines API of one address, as the owner of one token."""

    def __init__(
        self,
        token: str,
        url: str = API_URL,
        sleep: Callable[[float], None] = time.sleep,
        tries: int = TRIES,
    ) -> None:
        self._sleep = sleep
        self._tries = tries
        self._client = httpx.Client(
            base_url=f"{url}/v1/",
            headers={"Authorization": fly_authorization(token)},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=10.0),
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> Any:
        """Return what is there; None if nothing is."""
        return self.ask("GET", path, query=query, absent_is_fine=True)

    def delete(self, path: str, headers: Mapping[str, str] | None = None, **query: str) -> None:
        """Delete it. What is gone already is no failure."""
        self.ask("DELETE", path, query=query, headers=headers, absent_is_fine=True)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        absent_is_fine: bool = False,
        repeatable: bool = False,
    ) -> Any:
        """One call; gives the JSON of its answer, None if there is none.

        A throttled call is repeated. So is one that got no answer, if doing it twice is doing it once: of a
        POST, `repeatable` says so.

        Raises:
            FlyRefused, FlyUnanswered: as they say.
        """
        unanswered = throttled = 0
        while True:
            answer = self._once(method, path, body, query or {}, headers or {})
            if isinstance(answer, httpx.Response):
                if answer.status_code == 404 and absent_is_fine:
                    return None
                if answer.status_code < 400:
                    return _content(answer)
                problem = f"{method} {path}: {_words(answer)}"
                if throttles(answer.status_code, _words(answer)):
                    throttled += 1
                    if throttled == THROTTLED_TRIES:
                        raise FlyRefused(f"Fly throttles {problem}; try again in a minute", 429)
                    self._sleep(_retry_after(answer))
                    continue
                if answer.status_code < 500 and answer.status_code != 408:
                    advice = ADVICE.get(answer.status_code, "")
                    raise FlyRefused(f"Fly refused {problem}{advice}", answer.status_code)
            else:
                problem = f"{method} {path}: {answer}"
            unanswered += 1
            if (method == "POST" and not repeatable) or unanswered == self._tries:
                raise FlyUnanswered(f"Fly did not answer {problem}")
            self._sleep(PAUSE_SECONDS)

    def accepts(self, token: str) -> bool:
        """Return True if a token is good for anything."""
        try:
            self.ask("GET", "tokens/current", headers={"Authorization": fly_authorization(token)})
        except FlyRefused as error:
            if error.status in (401, 403):
                return False
            raise
        return True

    def once_known(self, find: Callable[[], T | None], make: Callable[[], T]) -> T:
        """Return what `find` finds, or else what `make` makes. What became of a lost one is looked up
        first."""
        for tried in range(TRIES):
            if (found := find()) is not None:
                return found
            try:
                return make()
            except FlyUnanswered:
                if tried == TRIES - 1:
                    raise
                self._sleep(PAUSE_SECONDS)
        raise AssertionError("unreachable")

    def until(self, what: str, seconds: float, ready: Callable[[], T | None]) -> T:
        """Return what `ready` gives once it gives something. Raise FlyRefused after `seconds`."""
        waited, pause = 0.0, FIRST_PAUSE_SECONDS
        while (found := ready()) is None:
            if waited >= seconds:
                raise FlyRefused(f"{what} within {seconds:.0f} s")
            self._sleep(pause)
            waited, pause = waited + pause, min(2 * pause, PAUSE_SECONDS)
        return found

    def _once(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> httpx.Response | str:
        """The answer, or why there is none."""
        try:
            return self._client.request(
                method,
                path.lstrip("/"),
                params=dict(query) or None,
                json=None if body is None else whole(body),
                headers=dict(headers),
            )
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__


def mapping(answer: Any, call: str, *needed: str) -> dict[str, Any] | None:
    """Return an answer that has these fields, each with a value; None stays None. Raises FlyMisread."""
    if answer is None:
        return None
    if isinstance(answer, dict) and all(answer.get(field) is not None for field in needed):
        return answer
    fields = f" with {', '.join(needed)}" if needed else ""
    raise FlyMisread(f"Fly's answer to {call} is not a mapping{fields}: {_quoted(answer)}")


def rows(answer: Any, call: str, *needed: str) -> list[dict[str, Any]]:
    """Return the mappings of an answer that is a list, each with these fields. Raises FlyMisread."""
    if not isinstance(answer or [], list):
        raise FlyMisread(f"Fly's answer to {call} is not a list: {_quoted(answer)}")
    return [found for row in answer or [] if (found := mapping(row, call, *needed)) is not None]


def _quoted(answer: Any) -> str:
    return json.dumps(answer, default=str)[:200]


def part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")


def whole(value: Any) -> Any:
    """Return the value with 1 for 1.0: numbers come from the engine as floats, and Fly's are whole."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: whole(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [whole(inner) for inner in value]
    return value


def _content(answer: httpx.Response) -> Any:
    if not answer.content.strip():
        return None
    try:
        return answer.json()
    except ValueError:
        raise FlyUnanswered("Fly's answer is not JSON") from None


def _words(answer: httpx.Response) -> str:
    """Fly's own words, `{"error": …}`, in one line."""
    try:
        said = answer.json()
    except ValueError:
        said = answer.text
    text = said.get("error") if isinstance(said, dict) else said
    return f"{answer.status_code} {' '.join(str(text or '').split())[:300]}".strip()


def _retry_after(answer: httpx.Response) -> float:
    try:
        return min(max(float(answer.headers.get("retry-after", "")), 0.1), 30.0)
    except ValueError:
        return PAUSE_SECONDS
