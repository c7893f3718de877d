"""The `docker` stack with a public name and a TURN server: calls through Caddy, and through coturn alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Playwright

from dispatcher.keys import hash_of, new_key
from stacks.docker.config import TURN_PORT
from tests.engine import Engine
from tests.patience import PATIENCE

from .browser import FAKE_MICROPHONE, launch, until, visit
from .docker_stack import PREFIX, Stack, stack_up

pytestmark = pytest.mark.calls

DOMAIN = "switchboard.localhost"
"""Caddy signs for such a name itself, and browsers take it for this machine."""

KEY = new_key(public=True)

RELAYS = [49160, 49167]


def own_address() -> str:
    """This machine's, by which others reach it. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("198.51.100.1", 9))
        return asked.getsockname()[0]


@pytest.fixture(scope="module")
def caller(playwright: Playwright) -> Iterator[Browser]:
    """To a browser on the engine's host a bot's new network interface is a change of network, after which it
    gives up what goes over HTTP/2. Callers are elsewhere."""
    running = launch(playwright, *FAKE_MICROPHONE, "--disable-http2")
    yield running
    running.close()


@pytest.fixture(scope="module")
def stack(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    for port in (80, 443, TURN_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"something else listens on port {port}, which the stack takes")
    here = Path(__file__).parent
    names = {}
    for service in ("caddy", "coturn"):
        names[service] = f"switchboard-test/{service}:1"
        arguments = ("--build-arg", f"BASE={base_image}", "--target", service, "--tag", names[service])
        engine.build("--file", str(here / "edge.Dockerfile"), *arguments, str(here / "elsewhere"))
    docker = {
        "base": base_image,
        "domain": DOMAIN,
        "caddyImage": names["caddy"],
        "turn": True,
        "turnAddress": own_address(),
        "turnPorts": RELAYS,
        "turnImage": names["coturn"],
    }
    key = {"name": "page", "hash": hash_of(KEY), "scope": "start", "origins": [f"https://{DOMAIN}"]}
    with stack_up(engine, tmp_path_factory.mktemp("public-stack"), docker=docker, keys=[key]) as made:
        until(answers, PATIENCE, f"an answer at {made.url}")
        yield made


def ask(scheme: str) -> httpx.Response:
    """As by the public name, which browsers alone take for this machine."""
    # The authority that signed is Caddy's own, and lives as long as the stack.
    with httpx.Client(verify=False, timeout=5, headers={"Host": DOMAIN}) as client:
        return client.get(f"{scheme}://127.0.0.1/healthz", extensions={"sni_hostname": DOMAIN})


def answers() -> bool:
    try:
        return ask("https").is_success
    except httpx.TransportError:
        return False


def test_a_browser_talks_with_a_bot_by_the_public_name(stack: Stack, caller: Browser) -> None:
    assert stack.url == f"https://{DOMAIN}"
    with visit(caller, f"{stack.url}/#key={KEY}", scripted=True, ignore_https_errors=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        voice.click("Hang up")
        until(lambda: stack.bots() == [], PATIENCE, "the end of the container")
    assert ask("http").headers["location"] == f"https://{DOMAIN}/healthz"


def test_a_call_that_nothing_but_the_turn_server_lets_through(stack: Stack, caller: Browser) -> None:
    page = f"{stack.url}/#key={KEY}"
    with visit(caller, page, scripted=True, relayed=True, ignore_https_errors=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        # This browser does not send datagrams to a name of its own machine.
        assert set(voice.routes()) == {"tcp"}
        voice.click("Hang up")
        until(lambda: stack.bots() == [], PATIENCE, "the end of the container")


def test_the_services_run_without_what_they_do_not_need(stack: Stack) -> None:
    for name in ("caddy", "turn"):
        host = stack.inspect(name)["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["PidsLimit"] == 512, name
        assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], ["NET_BIND_SERVICE"]), name
    processes = stack.engine.docker("top", f"{PREFIX}-turn", "-o", "pid,args")
    environments = stack.inspect("turn")["Config"]["Env"]
    secret = next(line for line in environments if line.startswith("TURN_SECRET=")).partition("=")[2]
    assert secret not in processes
    assert secret not in stack.engine.docker("logs", f"{PREFIX}-turn")
