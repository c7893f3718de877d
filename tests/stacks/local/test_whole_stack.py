"""The `local` stack with the real dispatcher and real machines: after a destroy no process is left."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pulumi.automation import PulumiCommand

from tests.processes import words_of
from tests.stacks.checkouts import REPOSITORY, CheckoutCopy, until

BOT = """\
import asyncio

async def bot(runner_args):
    await asyncio.sleep(600)
"""


@pytest.fixture
def checkout(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CheckoutCopy]:
    copy = CheckoutCopy(tmp_path / "checkout", pulumi_engine)
    ignored = shutil.ignore_patterns("*.pyc.*", "node_modules", "src")
    for name in ("dispatcher", "bot"):
        shutil.rmtree(copy.root / name)
        shutil.copytree(REPOSITORY / name, copy.root / name, ignore=ignored)
    (copy.root / "sleeper.py").write_text(BOT)
    # No room is opened here: the dispatcher only has what it would open one with.
    copy.write_config(
        port=copy.port,
        agents={"sleeper": {"bot": "sleeper.py", "transports": ["webrtc", "daily"]}},
        daily={"domain": "acme", "domainId": "d1", "apiUrl": "http://127.0.0.1:9/v1"},
    )
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    yield copy
    for process in copy.everything():
        process.kill()


def ask(checkout: CheckoutCopy, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{checkout.port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def start_session(checkout: CheckoutCopy) -> str:
    """A session whose machine runs."""
    session = str(ask(checkout, "/start", {"transport": "webrtc"})["sessionId"])
    until("the machine runs", lambda: bool(ask(checkout, f"/sessions/{session}")["startedAt"]))
    return session


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
def test_after_a_destroy_no_process_is_left(checkout: CheckoutCopy, killed: bool) -> None:
    checkout.driver().up()
    start_session(checkout)
    assert len(checkout.everything()) > 1
    if killed:
        (dispatcher,) = (
            one for one in checkout.everything() if psutil.pid_exists(one.pid) and is_server(one)
        )
        dispatcher.kill()
    checkout.driver().destroy()
    assert checkout.everything() == []


def is_server(process: psutil.Process) -> bool:
    return words_of(process)[1:] == ["-m", "dispatcher"]


def test_a_session_lives_through_a_restart_of_the_dispatcher_with_another_secret(
    checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.driver().up()
    session = start_session(checkout)
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-once-more")
    checkout.driver().up()
    assert checkout.lines[-1].startswith("  ~ dispatcher updated")
    assert ask(checkout, f"/sessions/{session}")["endedAt"] is None
    held = [one.environ().get("SWITCHBOARD_DAILY_API_KEY") for one in checkout.everything()]
    assert [key for key in held if key] == ["hunter2-once-more"], "the dispatcher has it, and no bot"
    written = "".join(file.read_text() for file in checkout.state_dir.rglob("*") if file.is_file())
    assert "hunter2" not in written + str(checkout.lines)
    checkout.driver().destroy()
    assert checkout.everything() == []
