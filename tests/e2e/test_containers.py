"""Calls with bots in containers, through a dispatcher: from a browser, and when something is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from dispatcher.keys import hash_of, new_key
from tests.engine import Engine
from tests.images import conftest as images
from tests.patience import PATIENCE
from tests.ports import free_port

from .browser import until, visit
from .dispatcher import NO_TLS, Dispatcher, agent
from .test_conversation import FOX

KEY = new_key(public=True)
KEYS = [{"name": "page", "hash": hash_of(KEY), "scope": "start"}]
DEPLOYMENT = "calls"
ECHO_IMAGE = "switchboard-test/echo"

GROWS = """
import pathlib, threading, time

from echo import bot


def grow():
    while not pathlib.Path("/tmp/grow").exists():
        time.sleep(0.05)
    held = []
    while True:
        held.append(b"x" * 2**20)


threading.Thread(target=grow, daemon=True).start()
"""
"""The echo bot, which takes all of its machine's memory once it is told to."""

NETWORKS = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"

build = images.build


@pytest.fixture(scope="module")
def echo_image(build: images.Build) -> str:
    return build("bot", "--tag", ECHO_IMAGE, **images.ECHO)


@contextmanager
def dispatcher_of(
    engine: Engine,
    image: str,
    directory: Path,
    *,
    network: str = "bridge",
    host: str = "host.docker.internal",
    bot: str = "echo.py",
    **settings: Any,
) -> Iterator[Dispatcher]:
    """A process of this host whose machines are containers.

    Args:
        network: The engine's network that they are in.
        host: What this host is called there.
        settings: Of the agent.
    """
    port = free_port()
    placement = {
        "provider": "container",
        "engineUrl": engine.url,
        "deployment": DEPLOYMENT,
        "network": network,
    }
    started = Dispatcher(
        directory,
        {"echo": agent(Path(bot), image=image, **settings)},
        KEYS,
        port=port,
        more={
            "HOST": "0.0.0.0",
            "MACHINE_URL": f"http://{host}:{port}",
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


@pytest.fixture
def dispatcher(engine: Engine, echo_image: str, tmp_path: Path) -> Iterator[Dispatcher]:
    with dispatcher_of(engine, echo_image, tmp_path) as started:
        yield started


@pytest.fixture
def cut_off(engine: Engine) -> Iterator[str]:
    """The name of a network from which this host is reached, and nothing behind it."""
    name = "switchboard-test-cut-off"
    engine.docker("network", "create", "--internal", name)
    yield name
    engine.docker("network", "rm", name)


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
        until(lambda: running(engine) == [], PATIENCE, "the end of the container")


def test_what_is_private_is_in_no_containers_configuration(dispatcher: Dispatcher, engine: Engine) -> None:
    with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE, verify=NO_TLS) as http:
        private = {"body": {"name": "hunter2-of-the-caller"}}
        started = http.post(f"{dispatcher.url}/v1/public/echo/start?wait=started", json=private)
        session_id = started.raise_for_status().json()["sessionId"]
        (bot,) = running(engine)
        inspected = engine.docker("inspect", bot)
        assert session_id in inspected
        assert "hunter2" not in inspected
        until(lambda: dispatcher.session(session_id)["phase"] == "waiting", PATIENCE, "a bot that was told")
        http.delete(f"{dispatcher.url}/sessions/{session_id}").raise_for_status()
        dispatcher.wait_until_over(session_id)
        until(lambda: running(engine) == [], PATIENCE, "the end of the container")


def test_a_call_needs_nothing_but_the_dispatcher(
    engine: Engine, echo_image: str, cut_off: str, browser: Browser, tmp_path: Path
) -> None:
    """Neither the model that hears when a turn begins nor anything else is fetched in a session."""
    gateway = engine.docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", cut_off)
    with (
        dispatcher_of(engine, echo_image, tmp_path, network=cut_off, host=gateway.strip()) as dispatcher,
        visit(browser, f"{dispatcher.url}/#key={KEY}", scripted=True) as voice,
    ):
        session_id = voice.talk()
        voice.wait_for_sound()
        (bot,) = running(engine)
        assert engine.docker("inspect", "--format", NETWORKS, bot).split() == [cut_off]
        voice.wait_for_silence()
        voice.say(FOX)
        voice.wait_for_sound(seconds=PATIENCE)
        voice.click("Hang up")
        assert dispatcher.wait_until_over(session_id)["state"] == "ended"


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
        until(lambda: dispatcher.session(session_id)["state"] == "active", PATIENCE, "the bot to be back")
        voice.click("Hang up")
        assert dispatcher.wait_until_over(session_id)["state"] == "ended"
        until(lambda: running(engine) == [], PATIENCE, "the end of the container")


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
        record = dispatcher.wait_until_over(session_id, seconds=PATIENCE)
        assert (record["state"], record["reason"]) == ("failed", "machine_stopped")
        assert record["message"]


@pytest.mark.usefixtures("echo_image")
def test_a_caller_reads_that_the_bot_ran_out_of_memory(
    engine: Engine, browser: Browser, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "grows.py").write_text(GROWS)
    (image / "Dockerfile").write_text(f"FROM {ECHO_IMAGE}\nCOPY grows.py /app/\n")
    engine.build("--tag", "switchboard-test/grows:1", str(image))
    with (
        dispatcher_of(
            engine, "switchboard-test/grows:1", tmp_path, bot="grows.py", memoryMb=512
        ) as dispatcher,
        visit(browser, f"{dispatcher.url}/#key={KEY}", scripted=True) as voice,
    ):
        session_id = voice.talk()
        voice.wait_for_sound()
        (bot,) = running(engine)
        engine.docker("exec", bot, "touch", "/tmp/grow")
        voice.reach("failed")
        assert voice.title == "The bot ran out of memory"
        assert "512 MiB" in voice.text
        record = dispatcher.wait_until_over(session_id)
        assert (record["state"], record["reason"]) == ("failed", "out_of_memory")
