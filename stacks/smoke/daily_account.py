"""Daily's part of `make smoke`: what the product takes for granted of an account, tried on the real one.

Each check prints a line. Participants are daily-python's, as a bot's and a client's are; where that is not
installed, the checks that need one say so. Rooms are named `switchboard-smoke-…` and deleted; the burst of
deletes comes last, because it uses up the domain's rate for half a minute.
"""

from __future__ import annotations

import base64
import hmac
import importlib
import importlib.util
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from dispatcher.settings import Settings
from dispatcher.transports.daily import tokens as daily_tokens
from dispatcher.transports.daily.domain import mismatch
from dispatcher.transports.daily.webhooks import derived_secret
from stacks import daily
from stacks.engine.drive import Driver
from stacks.errors import SmokeError

DELETES = 60
"""More than Daily documents to take in 30 s: 50."""

NO_WAY = ("lookup", "connection", "timed out")
"""Parts of daily-python's words, in lower case, for a join that did not reach Daily."""

INSTALL = "`.venv/bin/python -m pip install -r images/requirements-bot-daily.txt` installs daily-python"


class _Failed(Exception):
    """A check found something else than what the product counts on; the text says what."""


@dataclass(frozen=True)
class Account:
    """The domain as the stack's config has it."""

    api_key: str = field(repr=False)
    domain: str
    domain_id: str | None
    api_url: str
    webhook_secret: str = field(repr=False)


@dataclass(frozen=True)
class Limits:
    """Seconds that each step may take."""

    join: float = 30.0
    event: float = 15.0
    short_exp: float = 20.0
    """Life of the room that is to put its participant out."""


class Participant:
    """One participant of daily-python's."""

    def __init__(self, sdk: Any) -> None:
        happened = self._happened = threading.Condition()
        seen = self._seen = list[str]()

        def note(what: str) -> None:
            with happened:
                seen.append(what)
                happened.notify_all()

        class Handler(sdk.EventHandler):
            def on_participant_joined(self, participant: Any) -> None:
                note("joined")

            def on_participant_left(self, participant: Any, reason: Any) -> None:
                note("left")

            def on_call_state_updated(self, state: Any) -> None:
                note(f"state {state}")

        self._note = note
        self._client = sdk.CallClient(event_handler=Handler())

    def join(self, url: str, token: str | None, seconds: float) -> str:
        """Join; return Daily's words if it refuses, else an empty text."""
        outcome: list[str] = []

        def completed(_data: Any, error: Any) -> None:
            outcome.append(str(error or ""))
            self._note("completed")

        self._client.join(url, token, completion=completed)
        if not self.saw("completed", seconds):
            raise _Failed(f"a join had no outcome within {seconds:.0f} s")
        return outcome[0]

    def saw(self, what: str, seconds: float) -> bool:
        """Wait until it has happened; False if it did not within so many seconds."""
        with self._happened:
            return self._happened.wait_for(lambda: what in self._seen, seconds)

    def leave(self) -> None:
        self._client.leave()

    def release(self) -> None:
        self._client.release()


class Checks:
    """The checks of one account, in their order.

    Args:
        url: The dispatcher's.
        sdk: The module `daily`; None where it is not installed.
    """

    def __init__(self, account: Account, url: str, sdk: Any, limits: Limits, http: httpx.Client) -> None:
        self._account = account
        self._url = url
        self._sdk = sdk
        self._limits = limits
        self._http = http
        self._id = account.domain_id or ""
        self._name = f"switchboard-smoke-{secrets.token_hex(6)}"
        self._rooms: list[str] = []
        self._people: list[Participant] = []

    def run(self, out: Callable[[str], None]) -> int:
        """Make all checks; return how many failed."""
        steps: list[tuple[str, Callable[[], str], bool]] = [
            ("domain and id", self._domain, False),
            ("a room's config", self._config, False),
            ("the same name again", self._again, False),
            ("joins with signed tokens", self._joins, True),
            ("a join without a token", lambda: self._refused(None), True),
            ("a join with another room's token", lambda: self._refused(self._token("another", False)), True),
            ("a client that leaves", self._leaves, True),
            ("a room that is deleted while occupied", self._deleted, True),
            ("a room whose exp comes", self._expires, True),
            ("a webhook through the stack's proxy", self._webhook, False),
            ("deletes beyond the rate", self._burst, False),
        ]
        failed = 0
        try:
            for what, step, needs_sdk in steps:
                if needs_sdk and self._sdk is None:
                    out(f"  daily: {what}: not checked; {INSTALL}")
                    continue
                try:
                    out(f"  daily: {what}: {step()}")
                except _Failed as error:
                    failed += 1
                    out(f"  daily: {what}: FAILED: {error}")
                except Exception as error:  # noqa: BLE001 - an answer of another form fails its own check alone
                    failed += 1
                    words = f"{type(error).__name__}: {error}".replace(self._account.api_key, "…")
                    out(f"  daily: {what}: FAILED: what came is not as documented: {words}")
        finally:
            left = self._clear()
            for what in left:
                out(f"  daily: left behind: {what}")
        return failed + len(left)

    def _clear(self) -> list[str]:
        """Put everybody out and delete every room; return what is left all the same, and why."""
        left = list[str]()
        while self._people:
            try:
                self._people.pop().release()
            except Exception as error:  # noqa: BLE001 - the others and the rooms are still to go
                left.append(f"a participant, until this program ends: {type(error).__name__}: {error}")
        while self._rooms:
            name = self._rooms.pop()
            try:
                status, told = self._call("DELETE", f"/rooms/{name}")
            except _Failed as error:
                left.append(f"room {name}, until its exp: {error}")
            else:
                if status not in (200, 404):
                    left.append(f"room {name}, until its exp: {status}: {_words(told)}")
        return left

    def _domain(self) -> str:
        found = self._expect(200, "GET", "/")
        if wrong := mismatch(found, self._account.domain, self._account.domain_id):
            raise _Failed(wrong)
        self._id = found["domain_id"]
        return f"{found['domain_name']}, {found['domain_id']}"

    def _config(self) -> str:
        asked = {
            "exp": int(time.time()) + 600,
            "eject_at_room_exp": True,
            "enable_prejoin_ui": False,
        }
        room = self._open(self._name, asked)
        # An answer leaves out what is as the domain's default, and no domain has a default of `exp`.
        got = {"eject_at_room_exp": True, "enable_prejoin_ui": False, **room["config"]}
        other = {name: got.get(name) for name in asked if got.get(name) != asked[name]}
        if other or room["privacy"] != "private" or room["url"] != self._address(self._name):
            raise _Failed(
                f"asked for {asked}, private, at {self._address(self._name)}; got {json.dumps(room)}"
            )
        return f"as asked for: {json.dumps(room['config'])}"

    def _again(self) -> str:
        body = {"name": self._name, "privacy": "private"}
        status, told = self._call("POST", "/rooms", body)
        if status != 400:
            raise _Failed(f"400 was expected, and {status} came: {told}")
        self._expect(200, "GET", f"/rooms/{self._name}")
        return f"refused with {status}: {_words(told)}"

    def _joins(self) -> str:
        took = []
        for owner in (True, False):
            began = time.monotonic()
            self._join(self._name, self._token(self._name, owner))
            took.append(f"{time.monotonic() - began:.1f} s")
        if not self._people[0].saw("joined", self._limits.event):
            raise _Failed(f"the bot did not hear of its client within {self._limits.event:.0f} s")
        return f"bot {took[0]}, client {took[1]}"

    def _refused(self, token: str | None) -> str:
        self._in_call()  # else it would be refused for another reason, such as no way to Daily
        person, began = self._person(), time.monotonic()
        words = person.join(self._address(self._name), token, self._limits.join)
        if not words:
            raise _Failed("Daily let it in")
        if any(part in words.lower() for part in NO_WAY):
            raise _Failed(f"it had no answer of Daily's: {words}")
        return f"refused after {time.monotonic() - began:.1f} s: {words}"

    def _leaves(self) -> str:
        bot, client = self._in_call()
        began = time.monotonic()
        client.leave()
        if not bot.saw("left", self._limits.event):
            raise _Failed(f"the bot heard nothing of it within {self._limits.event:.0f} s")
        return f"the bot heard of it after {time.monotonic() - began:.1f} s"

    def _deleted(self) -> str:
        bot, _ = self._in_call()
        began = time.monotonic()
        self._expect(200, "DELETE", f"/rooms/{self._name}")
        self._rooms.remove(self._name)
        if not bot.saw("state left", self._limits.event):
            return (
                f"who is in it stays for {self._limits.event:.0f} s at least: a client that does not leave "
                f"by itself may stay until its room's exp, the session's latest end"
            )
        return f"who was in it is out after {time.monotonic() - began:.1f} s"

    def _expires(self) -> str:
        name, exp = f"{self._name}-short", int(time.time() + self._limits.short_exp)
        self._open(name, {"exp": exp, "eject_at_room_exp": True})
        person = self._join(name, self._token(name, False))
        if not person.saw("state left", exp - time.time() + self._limits.event):
            raise _Failed(f"its participant is in it {self._limits.event:.0f} s after its exp")
        return f"its participant was out {time.time() - exp:.1f} s after it"

    def _webhook(self) -> str:
        target = f"{self._url}/webhooks/daily"
        event = {
            "type": "meeting.ended",
            "id": f"smoke-{secrets.token_hex(8)}",
            "payload": {"room": self._name},
        }
        body, timestamp = json.dumps(event).encode(), f"{time.time():.0f}"
        secret = base64.b64decode(self._account.webhook_secret)
        digest = hmac.digest(secret, f"{timestamp}.".encode() + body, "sha256")
        signed = {"X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": base64.b64encode(digest).decode()}
        for headers, expected in ((signed, 200), ({}, 401)):
            try:
                status = self._http.post(target, content=body, headers=headers).status_code
            except httpx.HTTPError as error:
                raise _Failed(f"{target}: no answer: {type(error).__name__}: {error}") from None
            if status != expected:
                raise _Failed(f"{target} answers {status}, and {expected} was expected")
        status, told = self._call("GET", "/webhooks")
        known = [hook for hook in told if hook.get("url") == target] if status == 200 else []
        state = known[0].get("state") if known else "none yet, `make daily-webhook` makes it"
        return f"taken when signed, refused when not; at Daily: {state}"

    def _burst(self) -> str:
        # While the domain still takes deletes.
        if left := self._clear():
            raise _Failed(f"left behind: {'; '.join(left)}")
        for count in range(1, DELETES + 1):
            status, told = self._call("DELETE", f"/rooms/{self._name}-{count}")
            if status == 429:
                return f"the first {count - 1} were answered, then 429: {_words(told)}"
            if status not in (200, 404):
                raise _Failed(f"{status}: {_words(told)}")
        return f"all {DELETES} were answered"

    def _in_call(self) -> tuple[Participant, Participant]:
        if len(self._people) < 2:
            raise _Failed("bot and client are not in the room")
        return self._people[0], self._people[1]

    def _open(self, name: str, properties: dict[str, Any]) -> dict[str, Any]:
        # Before the call: a room whose answer is lost is there all the same.
        self._rooms.append(name)
        return self._expect(
            200, "POST", "/rooms", {"name": name, "privacy": "private", "properties": properties}
        )

    def _person(self) -> Participant:
        person = Participant(self._sdk)
        self._people.append(person)
        return person

    def _join(self, name: str, token: str) -> Participant:
        person = self._person()
        if words := person.join(self._address(name), token, self._limits.join):
            self._people.remove(person)
            person.release()
            raise _Failed(f"Daily refused it: {words}")
        return person

    def _token(self, name: str, owner: bool) -> str:
        properties = {"room_name": name, "exp": int(time.time()) + 600, "is_owner": owner}
        return daily_tokens.sign(properties, self._account.api_key, self._id, time.time())

    def _address(self, name: str) -> str:
        return f"https://{self._account.domain}.daily.co/{name}"

    def _expect(self, wanted: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, told = self._call(method, path, body)
        if status != wanted:
            raise _Failed(f"{method} {path}: {status}: {_words(told)}")
        return told

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._account.api_key}"}
        try:
            answer = self._http.request(method, f"{self._account.api_url}{path}", headers=headers, json=body)
        except httpx.HTTPError as error:
            # Its own words may have the header, with the key.
            raise _Failed(f"{method} {path}: no answer: {type(error).__name__}") from None
        try:
            return answer.status_code, answer.json()
        except ValueError:
            raise _Failed(f"{method} {path}: {answer.status_code}, and no JSON") from None


def _words(told: Any) -> str:
    if not isinstance(told, dict):
        return ""
    return ": ".join(str(told[name]) for name in ("error", "info") if told.get(name))


def check(account: Account, url: str, out: Callable[[str], None], limits: Limits | None = None) -> None:
    """Try an account, and print a line for each check.

    Args:
        url: The dispatcher's.

    Raises:
        SmokeError: something is not as the product counts on.
    """
    sdk = None
    if importlib.util.find_spec("daily") is not None:
        sdk = importlib.import_module("daily")
        sdk.Daily.init()
    with httpx.Client(timeout=30) as http:
        failed = Checks(account, url, sdk, limits or Limits(), http).run(out)
    if failed:
        raise SmokeError(f"{failed} of the checks of Daily failed")


def check_stack(driver: Driver, url: str, out: Callable[[str], None]) -> None:
    """Try the Daily account of a stack, if it has one.

    Raises:
        SmokeError: something is not as the product counts on.
    """
    given = daily.settings_of(driver.decrypted_config())
    if not given:
        return
    key, secret = given["daily_api_key"].get_secret_value(), given.get("daily_webhook_secret")
    account = Account(
        api_key=key,
        domain=given["daily_domain"],
        domain_id=given.get("daily_domain_id"),
        api_url=given.get("daily_api_url", Settings.model_fields["daily_api_url"].default).rstrip("/"),
        webhook_secret=derived_secret(key) if secret is None else secret.get_secret_value(),
    )
    check(account, url, out)
