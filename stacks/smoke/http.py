"""The dispatcher's HTTP interface, as a caller of one session uses it."""

from __future__ import annotations

import contextlib
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
RECORD = ("agent", "transport", "state", "reason", "message", "createdAt", "admittedAt", "endedAt")
"""Members of a session's record that are read here."""


class Unanswered(SmokeError):
    """No answer came: what was asked for may have been done."""


class Refused(SmokeError):
    """The dispatcher, or the bot through it, refused: the text has the status and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.http_status = status


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
        record = self.ask("GET")
        if missing := [name for name in RECORD if name not in record]:
            raise SmokeError(f"GET {self.shown}: the answer has no {', '.join(missing)}: {str(record)[:200]}")
        return record

    def end(self) -> None:
        self.ask("DELETE", timeout=END_SECONDS)

    def try_end(self) -> str:
        """Tell the session to end; return why it may run on, or an empty text."""
        try:
            self.end()
        except SmokeError as error:
            return f"its session may run on until its deadline: {error}"
        return ""

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
        left = self.try_end()
        return SmokeError(f"{error}; and {left}") if left else error


def start(http: httpx.Client, url: str, key: str, agent: str | None) -> Session:
    """Start a session. One whose answer is lost or not waited for is found by its key, and ended.

    Raises:
        SmokeError: no session was started.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers["Idempotency-Key"] = f"smoke-{secrets.token_hex(16)}"
    path = f"/v1/public/{agent}/start" if agent else "/start"
    # As the voice page asks. Calls within this machine need no STUN, which costs 5 s where it is unreachable.
    content = {"enableDefaultIceServers": httpx.URL(url).host not in LOOPBACK}

    def again() -> Session:
        # With the same key the answer is the same session, if there is one. Its bot is not waited for.
        waitless = f"{url}{path}?wait=none"
        return _session(http, url, ask(http, "POST", waitless, headers, json=content, timeout=END_SECONDS))

    try:
        return _session(http, url, ask(http, "POST", f"{url}{path}", headers, json=content))
    except Refused as error:
        # A dispatcher that fails may have started the session all the same.
        if error.http_status >= 500:
            with contextlib.suppress(SmokeError):
                again().end()
        raise SmokeError(f"no bot joined: {error}") from None
    except SmokeError as error:
        try:
            session = again()
        except SmokeError as worse:
            raise SmokeError(f"{error}; asked for it again: {worse}") from None
        raise session.after_end(error) from None
    except BaseException as error:
        try:
            again().end()
        except SmokeError as worse:
            error.add_note(f"a session may run on until its deadline: {worse}")
        raise


def _session(http: httpx.Client, url: str, answer: dict[str, Any]) -> Session:
    try:
        ice_servers = (answer.get("iceConfig") or {}).get("iceServers", [])
        return Session(http, url, answer["sessionId"], answer["sessionToken"], ice_servers)
    except (KeyError, AttributeError) as error:
        raise SmokeError(f"POST {url}: the answer to the start is not as documented: {error}") from None


def ask(http: httpx.Client, method: str, url: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
    """Return the object of an answer. Raise SmokeError with the dispatcher's words, else Unanswered."""
    try:
        answer = http.request(method, url, headers=headers, **more)
    except httpx.HTTPError as error:
        raise Unanswered(f"{method} {url}: {str(error) or type(error).__name__}") from None
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SmokeError(f"{method} {url}: {answer.status_code}, and no JSON object: {answer.text[:200]}")
    if answer.status_code >= 400:
        advice = f"; {KEY_VARIABLE} is to be a key of scope start" if answer.status_code in (401, 403) else ""
        told = content.get("detail", content)
        raise Refused(answer.status_code, f"{answer.status_code} {told}{advice} ({method} {url})")
    return content
