"""Chromium with a microphone of ours, and the voice page in it as a test sees it."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Browser, Page, Playwright, expect

from tests.patience import PATIENCE

from .sound import Sound

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FAKE_MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
PROBE = Path(__file__).parent / "probe.js"
AUDIBLE_DECIBELS = -50.0

T = TypeVar("T")


def launch(playwright: Playwright, *flags: str) -> Browser:
    return playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*FLAGS, *flags])


def launch_with_voice(playwright: Playwright, wav: Path) -> Browser:
    """A browser whose microphone plays `wav` over and over from when it is opened."""
    return launch(playwright, *FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={wav}")


def run_beside_browser(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread of its own: while Playwright is up, the main thread has a running loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result(timeout=PATIENCE)


def until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.05) -> Any:
    """Ask until the answer is true, and return it.

    Args:
        pause: Seconds between two questions.

    Raises:
        AssertionError: it was not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)


@dataclass
class VoicePage:
    """The page, by what a person can see, press and hear."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    """Every host that a request went to."""
    faults: list[str] = field(default_factory=list)
    """Uncaught exceptions, and what the page's own content security policy refused."""

    @property
    def phase(self) -> str:
        return self.page.evaluate("document.body.dataset.phase")

    @property
    def title(self) -> str:
        return self.page.locator("#title").inner_text()

    @property
    def text(self) -> str:
        return self.page.locator("#text").inner_text()

    @property
    def session_id(self) -> str:
        return self.page.evaluate("document.body.dataset.session ?? ''")

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def talk(self, seconds: float = PATIENCE) -> str:
        """Press the button and wait until the call stands; answers the session's id."""
        self.click("Talk")
        self.reach("live", seconds)
        return self.session_id

    def reach(self, phase: str, seconds: float = PATIENCE) -> None:
        """Wait until the page is in a phase; a failure that was not asked for is shown at once."""
        until(lambda: self.phase in (phase, "failed"), seconds, f"phase {phase}")
        assert self.phase == phase, f"the page is in phase {self.phase}: {self.title}: {self.text}"

    def reads(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until `text` stands on the page."""
        expect(self.page.locator("main")).to_contain_text(text, timeout=seconds * 1000)

    def marks(self) -> dict[str, float]:
        """Milliseconds since the click at which each step happened, by the page's own performance marks."""
        entries = self.page.evaluate(
            "performance.getEntriesByType('mark').map(({name, startTime}) => [name, startTime])"
        )
        ours = "switchboard:"
        times = {name.removeprefix(ours): at for name, at in entries if name.startswith(ours)}
        return {name: at - times["click"] for name, at in times.items()}

    def now(self) -> float:
        return self.page.evaluate("probe.now()")

    def hung_up(self, session_id: str) -> dict[str, float] | None:
        """When the dispatcher `answered` that the session ends, and when the page `left` it; None before."""
        times = self.page.evaluate("url => probe.hungUp(url)", f"/sessions/{session_id}")
        return times if len(times) == 2 and None not in times.values() else None

    def heard(self, since: float = 0) -> Sound:
        """Sound that the page received since `since`, in the page's milliseconds."""
        answer = self.page.evaluate("since => probe.heard(since)", since)
        samples = np.frombuffer(base64.b64decode(answer["samples"]), "<i2")
        return Sound(samples.astype(np.float64) / 32768, answer["rate"] or 48000)

    def say(self, sound: Sound) -> float:
        """Speak through the scripted microphone; answers when it began, in the page's milliseconds."""
        samples = base64.b64encode((sound.samples * 32767).astype("<i2").tobytes()).decode()
        return self.page.evaluate("([samples, rate]) => probe.say(samples, rate)", [samples, sound.rate])

    def routes(self) -> list[str]:
        """By what each connection gets to a TURN server: `udp`, `tcp` or `tls`; "" where it goes to none."""
        return self.page.evaluate("probe.routes()")

    def hears_something(self, milliseconds: float = 200) -> bool:
        return (
            self.page.evaluate("milliseconds => probe.level(milliseconds)", milliseconds) > AUDIBLE_DECIBELS
        )

    def wait_for_sound(self, seconds: float = PATIENCE) -> None:
        until(self.hears_something, seconds, "a sound from the bot")

    def wait_for_silence(self, seconds: float = PATIENCE, of: float = 0.8) -> None:
        """Wait until nothing was heard for `of` seconds: the bot has said what it had to say."""
        until(lambda: not self.hears_something(of * 1000), seconds, f"{of} s of silence")


@contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    scripted: bool = False,
    relayed: bool = False,
    others: Set[str] = frozenset(),
    **context: Any,
) -> Iterator[VoicePage]:
    """Open the page in a context of its own; `scripted` puts the probe in the microphone's place, `relayed`
    lets its calls out through TURN servers alone.

    `others` are hosts that it is meant to ask besides its own. Without a graphics card, a picture that moves
    takes its time from the call: the page shows one that stands, unless a test asks for the other.

    What must not happen in any visit is checked at its end: an uncaught exception, a breach of the content
    security policy, a request to another host.
    """
    surroundings = browser.new_context(**{"reduced_motion": "reduce", **context})
    try:
        page = surroundings.new_page()
        voice = VoicePage(page)
        page.on("request", lambda request: voice.hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: voice.faults.append(str(error)))
        page.on("console", lambda message: _note_refusal(voice, message.text))
        page.add_init_script(path=PROBE)
        if scripted:
            page.add_init_script("probe.scriptMicrophone()")
        if relayed:
            page.add_init_script("probe.onlyRelays()")
        page.goto(url)
        yield voice
    finally:
        surroundings.close()
    assert voice.faults == []
    assert voice.hosts <= {urlsplit(url).netloc, "", *others}, "the page asked another host"


def _note_refusal(voice: VoicePage, text: str) -> None:
    if "Content Security Policy" in text:
        voice.faults.append(text)
