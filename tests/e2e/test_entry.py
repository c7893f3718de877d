"""The voice page of a dispatcher that has keys, and of one that is at capacity."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from playwright.sync_api import Browser, Route, expect

from dispatcher.keys import hash_of, new_key
from tests.patience import PATIENCE

from .browser import VoicePage, until, visit
from .conftest import StartDispatcher
from .dispatcher import Dispatcher, agent
from .test_conversation import ECHO

SITE = "https://app.example.com"
KEY, EXPIRED, READER, SLOW = (new_key(public=True) for _ in range(4))
BACKEND = new_key(public=False)
KEYS: list[dict[str, Any]] = [
    {"name": "site", "hash": hash_of(KEY), "scope": "start", "origins": [SITE]},
    {"name": "old-site", "hash": hash_of(EXPIRED), "scope": "start", "expiresAt": "2024-01-01T00:00:00Z"},
    {"name": "reader", "hash": hash_of(READER), "scope": "read"},
    {"name": "slow", "hash": hash_of(SLOW), "scope": "start", "rate": {"perSecond": 0.001, "burst": 1}},
    {"name": "backend", "hash": hash_of(BACKEND), "scope": "start"},
]


def enter(voice: VoicePage, key: str) -> None:
    voice.page.get_by_label("Public key").fill(key)
    voice.click("Continue")


def start_and_stop(dispatcher: Dispatcher, key: str) -> None:
    """A start that uses up the key's rate, and leaves the line free."""
    bearer = {"Authorization": f"Bearer {key}"}
    url = dispatcher.url
    started = (
        httpx.post(f"{url}/start?wait=none", headers=bearer, json={}, timeout=PATIENCE)
        .raise_for_status()
        .json()
    )
    httpx.delete(f"{url}/sessions/{started['sessionId']}", headers=bearer).raise_for_status()


def assert_secret(dispatcher: Dispatcher, voice: VoicePage, *secrets: str) -> None:
    """Neither the address bar, the page's history and storage, nor the dispatcher's log has any of them."""
    assert "#" not in voice.page.url
    kept = voice.page.evaluate(
        "JSON.stringify([sessionStorage, localStorage, history.state, document.cookie])"
    )
    log = dispatcher.log.read_text()
    for secret in secrets:
        assert secret not in kept + voice.page.url
        assert secret not in log


def test_a_click_before_the_agents_are_known_talks_to_the_one_of_the_address(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO), other=agent(ECHO))
    with visit(browser, f"{dispatcher.url}/?agent=other", scripted=True) as voice:
        held: list[Route] = []
        voice.page.route("**/v1/agents", lambda route: held.append(route))
        voice.page.reload()
        voice.click("Talk")
        until(lambda: voice.phase == "microphone" and held, PATIENCE, "a call that waits for the agents")
        held[0].continue_()
        voice.reach("live")
        assert dispatcher.session(voice.session_id)["agent"] == "other"


def test_a_page_without_a_key_asks_for_one_and_talks_with_it(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(keys=KEYS, echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        asked: list[str] = []
        voice.page.on("request", lambda request: asked.append(request.url))
        voice.reads("This page needs a key")
        expect(voice.page.get_by_role("button", name="Talk")).to_be_hidden()
        sent = len(asked)
        for given, says in (
            (BACKEND, "That is a private key, which does not belong in a browser."),
            ("hunter2", "A public key begins with pk_."),
        ):
            enter(voice, given)
            voice.reads(says)
        assert len(asked) == sent, "what can be no key of a page goes nowhere"
        for given, says in (
            (new_key(public=True), "The key of this page is not good here."),
            (EXPIRED, "The key of this page has expired."),
        ):
            enter(voice, given)
            voice.reads(says)
        start_and_stop(dispatcher, SLOW)
        for given, title, text in (
            # Good for a look around, and for no call.
            (READER, "This page may not start this call", "The key 'reader' does not allow this"),
            (SLOW, "Too many calls at once", "Please try again in 17 minutes."),
        ):
            enter(voice, given)
            voice.reads("Talk to echo")
            voice.click("Talk")
            voice.reach("failed")
            assert voice.title == title
            assert text in voice.text
            voice.click("Use another key")
        enter(voice, KEY)
        voice.reads("Talk to echo")
        session_id = voice.talk()
        voice.wait_for_sound()
        assert dispatcher.session(session_id)["state"] == "active"
        timeline = dispatcher.request("GET", f"/v1/sessions/{session_id}/events")["events"]
        assert timeline[0]["by"] == "site"
        voice.click("Hang up")
        record = dispatcher.wait_until_over(session_id)
        # With the session's own token, not with the key that started it; before the bot sees its client go.
        assert (record["state"], record["message"]) == ("ended", "The session was stopped by its client.")
        times = until(lambda: voice.hung_up(session_id), PATIENCE, "a closed connection")
        assert times["answered"] <= times["left"]
        assert_secret(dispatcher, voice, KEY, EXPIRED, READER, SLOW)
        assert not [url for url in asked if "pk_" in url or "token" in url]


def test_a_link_to_a_session_that_a_backend_started(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(keys=KEYS, echo=agent(ECHO))
    bearer = {"Authorization": f"Bearer {BACKEND}"}
    started = (
        httpx.post(f"{dispatcher.url}/start", headers=bearer, json={}, timeout=PATIENCE)
        .raise_for_status()
        .json()
    )
    session_id, token = started["sessionId"], started["sessionToken"]
    link = urlencode(
        {"session": session_id, "token": token, "iceConfig": json.dumps({"iceServers": []})}, quote_via=quote
    )
    with visit(browser, f"{dispatcher.url}/#{link}", scripted=True) as voice:
        voice.reads("Talk to echo")
        assert_secret(dispatcher, voice, token)
        assert voice.talk() == session_id
        voice.click("Hang up")
        assert dispatcher.wait_until_over(session_id)["state"] == "ended"
        # There is nothing left to press: the link was good for one call.
        expect(voice.page.get_by_role("button", name="Talk again")).to_be_hidden()
        # The same link once more, in the same tab.
        voice.page.evaluate("link => { location.hash = link }", link)
        voice.reads("The session was stopped by its client.")
        for broken, says in (
            (f"session={session_id}&token=x", "This link is not good any more"),
            (f"session={session_id}", "This link is not complete"),
            (f"session=../v1&token={token}", "This link is not complete"),
        ):
            voice.page.evaluate("link => { location.hash = link }", broken)
            voice.reads(says)
            expect(voice.page.get_by_role("button", name="Talk")).to_be_hidden()


def test_callers_wait_in_a_line_see_it_move_and_may_give_up(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(keys=KEYS, echo=agent(ECHO, maxSessions=1, maxQueued=2))
    url = f"{dispatcher.url}/#key={KEY}"
    with (
        visit(browser, url, scripted=True) as first,
        visit(browser, url, scripted=True) as second,
        visit(browser, url, scripted=True) as third,
        visit(browser, url, scripted=True) as late,
    ):
        first.reads("Talk to echo")
        holder = first.talk()
        for voice, words in ((second, "You are next."), (third, "You are number 2 in the queue.")):
            voice.click("Talk")
            voice.reach("queued")
            voice.reads(words)
        late.click("Talk")
        late.reach("failed")
        assert late.title == "All agents are busy"
        # Giving up frees the place, for the one behind and for the one who found none.
        second.click("Give up")
        second.reads("You gave up your place in the queue.")
        third.reads("You are next.")
        assert dispatcher.wait_until_over(second.session_id)["reason"] == "stopped"
        late.click("Try again")
        late.reads("You are number 2 in the queue.")
        # So does closing the tab.
        late.page.goto(f"{dispatcher.url}/healthz")
        gone = until(
            lambda: _queued_besides(dispatcher, third.session_id) == [], PATIENCE, "a place that is free"
        )
        assert gone
        first.click("Hang up")
        third.reach("live", 20)
        assert dispatcher.session(holder)["state"] == "ended"


def _queued_besides(dispatcher: Dispatcher, session_id: str) -> list[str]:
    waiting = dispatcher.request("GET", "/v1/sessions?state=queued")["sessions"]
    return [session["sessionId"] for session in waiting if session["sessionId"] != session_id]
