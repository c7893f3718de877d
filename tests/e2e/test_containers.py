"""Calls with bots in containers, through a dispatcher: from a browser, and when something is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from dispatcher.keys import hash_of, new_key
from tests.engine import Engine
from tests.images import conftest as images
from tests.ports import free_port

from .browser import until, visit
from .dispatcher import Dispatcher, agent

KEY = new_key(public=True)
KEYS = [{"name": "page", "hash": hash_of(KEY), "scope": "start"}]
DEPLOYMENT = "calls"

build = images.build


@pytest.fixture(scope="module")
def echo_image(build: images.Build) -> str:
    return build("bot", "--tag", "switchboard-test/echo", **images.ECHO)


@pytest.fixture
def dispatcher(engine: Engine, echo_image: str, tmp_path: Path) -> Iterator[Dispatcher]:
    """A process of this host whose machines are containers."""
    port = free_port()
    placement = {"provider": "container", "engineUrl": engine.url, "deployment": DEPLOYMENT}
    started = Dispatcher(
        tmp_path,
        {"echo": agent(Path("echo.py"), image=echo_image)},
        KEYS,
        port=port,
        more={
            "HOST": "0.0.0.0",
            "MACHINE_URL": f"http://host.docker.internal:{port}",
            "PLACEMENTS": json.dumps({"engine": placement}),
        },
    )
    try:
        started.start()
        yield started
    finally:
        started.stop()
        assert running(engine) == []
        left = engine.docker("ps", "--all", "--quiet", "--filter", f"name={DEPLOYMENT}-").split()
        if left:
            engine.docker("rm", "--force", *left)


def running(engine: Engine) -> list[str]:
    return engine.docker("ps", "--quiet", "--filter", f"name={DEPLOYMENT}-").split()


def test_a_browser_talks_with_a_bot_in_a_container(
    dispatcher: Dispatcher,
    engine: Engine,
    browser: Browser,
) -> None:
    with visit(browser, f"{dispatcher.url}/#key={KEY}", scripted=True) as voice:
        session_id = voice.talk()
        voice.wait_for_sound()
        assert dispatcher.session(session_id)["state"] == "active"
        assert len(running(engine)) == 1
        voice.click("Hang up")
        record = dispatcher.wait_until_over(session_id)
        assert record["state"] == "ended"
        until(lambda: running(engine) == [], 30, "the end of the container")


def test_a_call_goes_on_without_its_dispatcher(
    dispatcher: Dispatcher,
    engine: Engine,
    browser: Browser,
) -> None:
    with visit(browser, f"{dispatcher.url}/#key={KEY}", scripted=True) as voice:
        session_id = voice.talk()
        voice.wait_for_sound()
        dispatcher.kill()
        assert len(running(engine)) == 1
        dispatcher.start()
        until(lambda: dispatcher.session(session_id)["state"] == "active", 15, "the bot to be back")
        voice.click("Hang up")
        assert dispatcher.wait_until_over(session_id)["state"] == "ended"
        until(lambda: running(engine) == [], 30, "the end of the container")


def test_the_death_of_the_engine_is_the_end_of_a_call_and_is_told(
    dispatcher: Dispatcher,
    engine: Engine,
    browser: Browser,
) -> None:
    with visit(browser, f"{dispatcher.url}/#key={KEY}", scripted=True) as voice:
        session_id = voice.talk()
        voice.wait_for_sound()
        engine.kill()
        engine.start()
        record = dispatcher.wait_until_over(session_id, seconds=60)
        assert record["state"] in ("ended", "failed")
        assert record["message"]
