"""The `local` stack with the real dispatcher and real machines: after a destroy no process is left."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pulumi.automation import PulumiCommand

from tests.stacks.checkouts import REPOSITORY, CheckoutCopy

BOT = """\
import asyncio

async def bot(runner_args):
    await asyncio.sleep(600)
"""


@pytest.fixture
def checkout(tmp_path: Path, engine: PulumiCommand, nobody_logged_in: None) -> Iterator[CheckoutCopy]:
    copy = CheckoutCopy(tmp_path / "checkout", engine)
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", "src")
    for name in ("dispatcher", "bot"):
        shutil.rmtree(copy.root / name)
        shutil.copytree(REPOSITORY / name, copy.root / name, ignore=ignored)
    (copy.root / "sleeper.py").write_text(BOT)
    copy.write_config(port=copy.port, agents={"sleeper": {"bot": "sleeper.py"}})
    yield copy
    for process in of_checkout(copy):
        process.kill()


def of_checkout(checkout: CheckoutCopy) -> list[psutil.Process]:
    """Every living process that has to do with the checkout: by its directory, arguments or environment."""
    root = str(checkout.root)
    found = []
    for process in psutil.process_iter():
        try:
            places = [process.cwd(), *process.cmdline(), *process.environ().values()]
            if process.status() != psutil.STATUS_ZOMBIE and any(root in place for place in places):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def ask(checkout: CheckoutCopy, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{checkout.port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.05)


def start_session(checkout: CheckoutCopy) -> str:
    """A session whose machine runs."""
    session = str(ask(checkout, "/start", {"transport": "webrtc"})["sessionId"])
    until("the machine runs", lambda: bool(ask(checkout, f"/sessions/{session}")["startedAt"]))
    return session


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
def test_after_a_destroy_no_process_is_left(checkout: CheckoutCopy, killed: bool) -> None:
    checkout.driver().up()
    start_session(checkout)
    assert len(of_checkout(checkout)) > 1
    if killed:
        (dispatcher,) = (
            one for one in of_checkout(checkout) if psutil.pid_exists(one.pid) and is_server(one)
        )
        dispatcher.kill()
    checkout.driver().destroy()
    assert of_checkout(checkout) == []


def is_server(process: psutil.Process) -> bool:
    return process.cmdline()[1:] == ["-m", "dispatcher"]


def test_a_session_lives_through_a_restart_of_the_dispatcher(checkout: CheckoutCopy) -> None:
    checkout.driver().up()
    session = start_session(checkout)
    (checkout.root / "helper.py").write_text("x = 1\n")
    checkout.driver().up()
    assert checkout.lines[-1].startswith("  ~ dispatcher updated")
    assert ask(checkout, f"/sessions/{session}")["endedAt"] is None
    checkout.driver().destroy()
    assert of_checkout(checkout) == []
