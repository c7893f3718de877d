"""The dispatcher's HTTP interface, as a caller of one session uses it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from stacks.errors import SmokeError

KEY_VARIABLE = "SWITCHBOARD_KEY"

START_SECONDS = 120.0
"""For the answer to a start or an offer: the dispatcher ends the wait, at the agent's start timeout."""

END_SECONDS = 60.0
POLL_SECONDS = 0.25

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OVER = ("ended", "failed")


class Unanswered(SmokeError):
    """No answer came: what was asked for may have been done."""


class Refused(SmokeError):
    """The dispatcher, or the bot through it, refused: the text has the status and its words."""


@dataclass(frozen=True)
class Session:
    """A session that was started, and the right to it: its own token, as a public key may read no other."""

    http: httpx.Client
    url: str
    id: str
    token: str = field(repr=False)
    ice_servers: list[dict[str, Any]] = field(repr=False)

    @property
    def shown(self) -> str:
        return f"{self.url}/sessions/{self.id}"

    def ask(self, method: str, path: str = "", **more: Any) -> dict[str, Any]:
        """Return the answer to a request for this session or for its bot."""
        return ask(
            self.http, method, f"{self.shown}{path}", {"Authorization": f"Bearer {self.token}"}, **more
        )

    def record(self) -> dict[str, Any]:
        return self.ask("GET")

    def end(self) -> None:
        self.ask("DELETE")

    def until_over(self) -> dict[str, Any]:
        """Return the record once the session is over. Raise SmokeError if it does not end in time."""
        deadline = time.monotonic() + END_SECONDS
        while (record := self.record())["state"] not in OVER:
            if time.monotonic() >= deadline:
                raise SmokeError(
                    f"the session did not end within {END_SECONDS:.0f} s of its stop: {self.shown}"
                )
            time.sleep(POLL_SECONDS)
        return record

    def after_end(self, error: SmokeError) -> SmokeError:
        """Tell the session to end, and return the error; with the end's own, if it failed too."""
        try:
            self.end()
        except SmokeError as worse:
            return SmokeError(f"{error}; and its session may run on until its deadline: {worse}")
        return error


def start(http: httpx.Client, url: str, key: str, agent: str | None) -> Session:
    """Start a session. One whose answer got lost is found by its idempotency key, and ended.

    Raises:
        SmokeError: no session was started.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers["Idempotency-Key"] = f"smoke-{secrets.token_hex(16)}"
    path = f"/v1/public/{agent}/start" if agent else "/start"
    # As the voice page asks. Calls within this machine need no STUN, which costs 5 s where it is unreachable.
    content = {"enableDefaultIceServers": httpx.URL(url).host not in LOOPBACK}
    try:
        return _session(http, url, ask(http, "POST", f"{url}{path}", headers, json=content))
    except Refused as error:
        raise SmokeError(f"no bot joined: {error}") from None
    except Unanswered as error:
        try:
            session = _session(http, url, ask(http, "POST", f"{url}{path}", headers, json=content))
        except SmokeError as again:
            raise SmokeError(f"{error}; asked for it again: {again}") from None
        raise session.after_end(error) from None


def _session(http: httpx.Client, url: str, answer: dict[str, Any]) -> Session:
    ice_servers = answer.get("iceConfig", {}).get("iceServers", [])
    return Session(http, url, answer["sessionId"], answer["sessionToken"], ice_servers)


def ask(http: httpx.Client, method: str, url: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
    """Return the JSON of an answer. Raise SmokeError with the dispatcher's words, Unanswered without any."""
    try:
        answer = http.request(method, url, headers=headers, **more)
    except httpx.HTTPError as error:
        raise Unanswered(f"{method} {url}: {str(error) or type(error).__name__}") from None
    try:
        content = answer.json()
    except ValueError:
        raise SmokeError(f"{method} {url}: {answer.status_code}, and no JSON: {answer.text[:200]}") from None
    if answer.status_code >= 400:
        advice = f"; {KEY_VARIABLE} is to be a key of scope start" if answer.status_code in (401, 403) else ""
        told = content.get("detail", content)
        raise Refused(f"{answer.status_code} {told}{advice} ({method} {url})")
    return content
