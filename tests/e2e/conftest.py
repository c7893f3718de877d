"""Fixtures: a browser, and dispatchers that are gone without a trace after each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from .browser import CHROMIUM, FAKE_MICROPHONE, launch
from .dispatcher import CHECKOUT, Dispatcher

PAGE = CHECKOUT / "dispatcher" / "web" / "dist" / "index.html"

StartDispatcher = Callable[..., Dispatcher]


@pytest.fixture(scope="session", autouse=True)
def equipment() -> None:
    """Without a browser and a built page the tests are skipped; where they must run (CI), they fail."""
    missing = [
        text
        for there, text in (
            (CHROMIUM.exists(), f"no Chromium at {CHROMIUM}"),
            (
                PAGE.exists(),
                "the voice page is not built (npm ci && npm run build in dispatcher/web)",
            ),
        )
        if not there
    ]
    if not missing:
        return
    reason = "; ".join(missing)
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="package")
def playwright(equipment: None) -> Iterator[Playwright]:
    """Ends with this folder: while it runs, this thread has a running event loop, which other tests start."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """A browser whose microphone may be used; most tests script it."""
    running = launch(playwright, *FAKE_MICROPHONE)
    yield running
    running.close()


@pytest.fixture
def start_dispatcher(tmp_path: Path) -> Iterator[StartDispatcher]:
    """Starts a dispatcher with the agents given as `name=agent(…)`; it and its machines end with the test.

    With `keys`, entries of the setting of that name, it asks everybody for one.
    """
    started: list[Dispatcher] = []

    def start(
        *,
        keys: Sequence[dict[str, Any]] = (),
        forks: bool = True,
        more: Mapping[str, str] | None = None,
        **agents: dict[str, Any],
    ) -> Dispatcher:
        directory = tmp_path / f"dispatcher-{len(started)}"
        directory.mkdir()
        named = {name.replace("_", "-"): value for name, value in agents.items()}
        dispatcher = Dispatcher(directory, named, keys, forks=forks, more=more or {})
        started.append(dispatcher)
        dispatcher.start()
        return dispatcher

    yield start
    for dispatcher in started:
        dispatcher.stop()
