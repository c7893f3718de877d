"""Pipecat's JavaScript client on a page of another origin: a customer's site, or a development server."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Request

from dispatcher.keys import hash_of, new_key
from tests.patience import PATIENCE

from .browser import VoicePage, visit
from .conftest import StartDispatcher
from .dispatcher import CHECKOUT, Dispatcher, agent
from .test_conversation import ECHO

SITE = Path(__file__).parent / "elsewhere"
PACKAGES = CHECKOUT / "dispatcher" / "web" / "node_modules"


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Drop the line: nobody reads it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's files, bundled by the esbuild of the voice page, with the client of its lock file."""
    built = tmp_path_factory.mktemp("site")
    shutil.copy(SITE / "index.html", built)
    bundle = [PACKAGES / ".bin" / "esbuild", SITE / "site.js", "--bundle", "--format=esm", "--target=es2022"]
    # Where there was no Node for the page's build, it is beside this Python.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    done = subprocess.run(
        [*bundle, "--log-level=warning", f"--outfile={built / 'site.js'}"],
        env={**os.environ, "NODE_PATH": str(PACKAGES), "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"the site was not built:\n{done.stdout}{done.stderr}"
    return built


@pytest.fixture
def serve(site: Path) -> Iterator[Callable[[], str]]:
    """Serves the site once more, and answers its origin."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start() -> str:
        handler = functools.partial(_Files, directory=str(site))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def call(voice: VoicePage, endpoint: str, key: str = "") -> dict[str, Any]:
    return voice.page.evaluate("([endpoint, key]) => site.call(endpoint, key)", [endpoint, key])


def assert_nothing_started(dispatcher: Dispatcher) -> None:
    assert dispatcher.request("GET", "/v1/sessions")["sessions"] == []
    assert dispatcher.processes() == []


def test_a_site_elsewhere_calls_with_the_unmodified_client(
    start_dispatcher: StartDispatcher, browser: Browser, serve: Callable[[], str]
) -> None:
    origin, key = serve(), new_key(public=True)
    entry = {"name": "site", "hash": hash_of(key), "scope": "start", "origins": [origin]}
    rate = {"perSecond": 0.001, "burst": 2}
    dispatcher = start_dispatcher(keys=[entry | {"rate": rate}], echo=agent(ECHO))
    requests: list[Request] = []
    with visit(browser, origin, scripted=True, others={urlsplit(dispatcher.url).netloc}) as voice:
        voice.page.on("request", lambda request: requests.append(request))
        # The default agent's start, and the one with the agent's name, as Pipecat Cloud has it.
        for prefix in ("", "/v1/public/echo"):
            told = call(voice, f"{dispatcher.url}{prefix}/start", key)
            assert (told["error"], told["shown"]) == (None, [])
            assert told["ready"]["version"], "the bot's own answer to the client's client-ready"
            session_id = told["started"]
            voice.wait_for_sound()
            assert dispatcher.session(session_id)["state"] == "active"
            # The client knows no session token: it goes on with what it started with.
            offer = f"{dispatcher.url}{prefix}/sessions/{session_id}/api/offer"
            offered = [request for request in requests if request.url == offer]
            assert offered[0].method == "POST"
            assert {request.all_headers()["authorization"] for request in offered} == {f"Bearer {key}"}
            voice.page.evaluate("site.hangUp()")
            assert dispatcher.wait_until_over(session_id)["state"] == "ended"
            dispatcher.wait_until_no_machine()
        told = call(voice, f"{dispatcher.url}/start", key)
        words = r"The key 'site' starts sessions too fast; try again in \d+ s\."
        assert re.fullmatch(words, told["error"]["message"])
        assert told["error"]["status"] == 429
        assert told["shown"] == [told["error"]["message"]]
        assert told["started"] is None
    assert len(dispatcher.request("GET", "/v1/sessions")["sessions"]) == 2
    assert dispatcher.processes() == []


def test_a_site_that_the_key_does_not_name_starts_nothing(
    start_dispatcher: StartDispatcher, browser: Browser, serve: Callable[[], str]
) -> None:
    ours, partner, stranger = serve(), serve(), serve()
    key, partners = new_key(public=True), new_key(public=True)
    keys = [
        {"name": name, "hash": hash_of(given), "scope": "start", "origins": [origin]}
        for name, given, origin in (("site", key, ours), ("partner", partners, partner))
    ]
    dispatcher = start_dispatcher(keys=keys, echo=agent(ECHO))
    others = {urlsplit(dispatcher.url).netloc}
    with visit(browser, stranger, others=others) as voice:
        told = call(voice, f"{dispatcher.url}/start", key)
        # Chromium's word for a request that CORS forbids: not even why may the page read.
        assert told["shown"] == ["Failed to fetch"]
        assert told["started"] is None
    assert_nothing_started(dispatcher)
    with visit(browser, partner, others=others) as voice:
        told = call(voice, f"{dispatcher.url}/start", key)
        words = f"The key 'site' may not be used by pages of the origin '{partner}'."
        assert told["error"] == {"message": words, "status": 403}
        assert told["shown"] == [words]
    assert_nothing_started(dispatcher)


def test_without_keys_a_page_on_another_port_calls(
    start_dispatcher: StartDispatcher, browser: Browser, serve: Callable[[], str]
) -> None:
    dispatcher, origin = start_dispatcher(echo=agent(ECHO)), serve()
    with visit(browser, origin, scripted=True, others={urlsplit(dispatcher.url).netloc}) as voice:
        told = call(voice, f"{dispatcher.url}/start")
        assert (told["error"], told["shown"]) == (None, [])
        voice.wait_for_sound()
        voice.page.evaluate("site.hangUp()")
        assert dispatcher.wait_until_over(told["started"])["state"] == "ended"
        dispatcher.wait_until_no_machine()


def test_without_keys_a_page_of_the_internet_starts_nothing(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    page = browser.new_context().new_page()
    try:
        page.route("http://site.example/", lambda route: route.fulfill(body="<p>A site.</p>"))
        page.goto("http://site.example/")
        # A simple request, for which a browser asks no preflight: it arrives, and starts nothing.
        for body in ('"text"', "new Blob(['{}'], {type: 'application/json'})"):
            asked = f"fetch('{dispatcher.url}/start', {{method: 'POST', body: {body}}})"
            assert (
                page.evaluate(f"{asked}.then(() => 'answered', (error) => error.message)")
                == "Failed to fetch"
            )
    finally:
        page.context.close()
    assert_nothing_started(dispatcher)


def test_a_client_that_only_offers_gets_the_default_agent(
    start_dispatcher: StartDispatcher, browser: Browser, serve: Callable[[], str]
) -> None:
    """The development runner's older examples know `/api/offer`, and no `/start`."""
    dispatcher, origin = start_dispatcher(echo=agent(ECHO)), serve()
    asked: list[tuple[str, int]] = []
    with visit(browser, origin, scripted=True, others={urlsplit(dispatcher.url).netloc}) as voice:
        voice.page.on("response", lambda answer: asked.append((answer.request.method, answer.status)))
        told = voice.page.evaluate("(endpoint) => site.connect(endpoint)", f"{dispatcher.url}/api/offer")
        assert told["error"] is None
        assert told["ready"]["version"], "the bot's own answer to the client's client-ready"
        voice.wait_for_sound()
        (session,) = dispatcher.request("GET", "/v1/sessions")["sessions"]
        assert (session["agent"], session["state"]) == ("echo", "active")
        voice.page.evaluate("site.hangUp()")
        assert dispatcher.wait_until_over(session["sessionId"])["state"] == "ended"
        dispatcher.wait_until_no_machine()
    assert {("POST", 200), ("PATCH", 200)} <= set(asked)
    assert all(status < 400 for _, status in asked)
