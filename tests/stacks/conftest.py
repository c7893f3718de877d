from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pulumi.automation import PulumiCommand

from stacks.engine.find import find
from tests.patience import PATIENCE
from tests.stacks.checkouts import CheckoutCopy


@pytest.fixture(scope="session")
def pulumi_engine() -> PulumiCommand:
    """The real engine, as `make up` would find it."""
    return find()


@pytest.fixture(autouse=True)
def whole_tracebacks() -> Iterator[None]:
    """A provider that raises shortens the tracebacks of its process, which is the engine's host and not ours.

    An inline program in a process without tracebacks never ends.
    """
    yield
    if hasattr(sys, "tracebacklimit"):
        del sys.tracebacklimit


@pytest.fixture(autouse=True)
def closed_loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End what inline programs that have failed leave behind.

    Pulumi's language server cancels its tasks and closes its loop, but stops at the first task that raises as
    it is cancelled (`LanguageServer.Run`).
    """
    made: list[asyncio.AbstractEventLoop] = []
    new_event_loop = asyncio.new_event_loop

    def kept() -> asyncio.AbstractEventLoop:
        made.append(new_event_loop())
        return made[-1]

    monkeypatch.setattr("asyncio.new_event_loop", kept)
    yield
    for loop in made:
        if loop.is_running() or loop.is_closed():
            continue
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))
        loop.close()


@pytest.fixture
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests must not touch the state or the login of whoever runs them."""
    for name in (
        "PULUMI_BACKEND_URL",
        "PULUMI_ACCESS_TOKEN",
        "PULUMI_CONFIG_PASSPHRASE",
        "PULUMI_CONFIG_PASSPHRASE_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "pulumi-home"))


@pytest.fixture
def checkout(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CheckoutCopy]:
    monkeypatch.setenv("ECHO_KEY", "of-whoever-runs-this")
    copy = CheckoutCopy(tmp_path / "checkout", pulumi_engine)
    yield copy
    copy.kill_all()
