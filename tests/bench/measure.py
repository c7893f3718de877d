"""One call in a browser, and what it took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx

from tests.e2e.browser import VoicePage, until
from tests.e2e.dispatcher import CHECKOUT, Dispatcher
from tests.ports import free_port

RUNNER = Path(__file__).parent / "development_runner.py"


@dataclass(frozen=True)
class Run:
    """Times of one call, in milliseconds since the click."""

    page: dict[str, float]
    """The page's marks."""
    machine: dict[str, float]
    """The session's record and the machine's own `protocol.Timings`; empty without a machine."""


def call(voice: VoicePage, url: str, dispatcher: Dispatcher | None) -> Run:
    """Open the page, call, wait for the first sound, hang up, and wait until all is quiet again."""
    voice.page.goto(url)
    # What the page does on its own must be over: only the call is measured.
    voice.page.wait_for_load_state("networkidle")
    voice.click("Talk")
    until(
        lambda: {"bot-ready", "first-sound"} <= voice.marks().keys() or voice.phase == "failed", 30, "a call"
    )
    assert voice.phase == "live", f"{voice.title}: {voice.text}"
    page = voice.marks()
    clicked = voice.page.evaluate(
        "performance.timeOrigin + performance.getEntriesByName('switchboard:click')[0].startTime"
    )
    session_id = voice.session_id
    voice.click("Hang up")
    voice.reach("ended")
    if dispatcher is None:
        return Run(page, {})
    record = dispatcher.wait_until_over(session_id)
    dispatcher.wait_until_no_machine()
    # Dispatcher, browser and machine share a clock; the system knows a process's birth only to 10 ms.
    written, born = (
        datetime.fromisoformat(record[name]).timestamp() * 1000 - clicked
        for name in ("createdAt", "startedAt")
    )
    timings = {name: born + value for name, value in record["timings"].items()}
    return Run(page, {"row": written, "process": born} | timings)


@contextmanager
def development_runner(directory: Path) -> Iterator[str]:
    """Run Pipecat's development runner; gives the page's URL."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (directory / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(RUNNER), "-t", "webrtc", "--host", "127.0.0.1", "--port", str(port)],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}/page/"
    try:
        until(lambda: process.poll() is not None or _answers(url), 60, "the development runner")
        assert process.poll() is None, (directory / "runner.log").read_text()[-2000:]
        yield url
    finally:
        process.terminate()
        process.wait(timeout=15)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
