"""The page beside a call's sound: words, a picture, metrics, and the session with its log."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import Browser, Locator, expect

from dispatcher.keys import hash_of, new_key
from tests.patience import PATIENCE

from .browser import VoicePage, until, visit
from .conftest import StartDispatcher
from .dispatcher import BOTS, Dispatcher, agent

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
TITLE = "Switchboard"


class Stage:
    """The bot that shows things, in a directory in which it looks for its cues."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "bots"
        self._directory.mkdir()
        self.bot = self._directory / "shows.py"
        shutil.copy(BOTS / "shows.py", self.bot)

    def cue(self, *names: str) -> None:
        """Have the bot do these, one after the other."""
        for name in names:
            cue = self._directory / name
            cue.touch()
            until(lambda cue=cue: not cue.exists(), PATIENCE, f"the bot hearing the cue {name}")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def turns(voice: VoicePage) -> Locator:
    return voice.page.get_by_role("log", name="Transcript").locator("li")


def session_view(voice: VoicePage) -> Locator:
    return voice.page.get_by_role("dialog")


def log_lines(voice: VoicePage) -> Locator:
    return voice.page.locator("#log-lines > div")


def open_session(voice: VoicePage) -> None:
    voice.page.get_by_role("button", name="Session").focus()
    voice.page.keyboard.press("Enter")
    expect(session_view(voice)).to_be_visible()


def test_words_of_both_sides_are_shown_as_they_become_final(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.talk()
        expect(voice.page.get_by_role("log", name="Transcript")).to_be_hidden()
        stage.cue("interim")
        guess = turns(voice).locator(".guess")
        expect(guess).to_have_text("I would like a tab")
        # It is read out once it is final, and not at each guess.
        assert guess.get_attribute("aria-hidden") == "true"
        assert voice.page.get_by_role("log", name="Transcript").get_attribute("aria-live") == "polite"
        stage.cue("final")
        expect(guess).to_have_count(0)
        expect(turns(voice)).to_have_text(["YouI would like a table for two."])
        stage.cue("says")
        left = turns(voice).nth(1).locator(".left")
        expect(left).to_have_text("for eight o'clock.")
        expect(turns(voice).nth(1)).to_contain_text("Your table is booked")
        stage.cue("spoken")
        expect(left).to_have_text("")
        expect(turns(voice).nth(1)).to_contain_text("Your table is booked for eight o'clock.")
        voice.click("Hang up")
        voice.reach("ended")
        expect(turns(voice)).to_have_count(2)
        # The next call has words of its own.
        voice.click("Talk again")
        voice.reach("live")
        expect(turns(voice)).to_have_count(0)


def test_transcript_is_bounded_and_is_text_whatever_a_bot_sends(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.talk()
        stage.cue("hostile")
        expect(turns(voice)).to_contain_text(
            ["<img src=x onerror=\"document.title='owned'\"><b>bold</b> txet red"]
        )
        assert turns(voice).locator("img, b").count() == 0
        assert voice.page.title() == TITLE
        stage.cue("flood")
        voice.reads("Turn 299", 60)
        assert turns(voice).count() <= 200
        assert max(len(text) for text in turns(voice).all_text_contents()) < 8_000
        # Whoever follows sees the newest words.
        expect(turns(voice).last).to_be_in_viewport()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_picture_comes_and_goes_with_its_track_and_moves_nothing(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage, viewport: dict[str, int]
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot))
    with visit(browser, dispatcher.url, scripted=True, viewport=viewport) as voice:
        picture = voice.page.get_by_label("Picture of the bot")
        fixed = [voice.page.locator(selector) for selector in (".stage", "#call", "#facts", "footer")]
        voice.talk()
        expect(picture).to_be_hidden()
        before = [one.bounding_box() for one in fixed]
        stage.cue("video")
        expect(picture).to_be_visible()
        until(
            lambda: picture.evaluate("video => video.videoWidth") == 320,
            PATIENCE,
            "a picture of its size",
        )
        shown = picture.evaluate("video => video.getVideoPlaybackQuality().totalVideoFrames")
        until(
            lambda: picture.evaluate("video => video.getVideoPlaybackQuality().totalVideoFrames") > shown,
            10,
            "a picture that moves",
        )
        assert [one.bounding_box() for one in fixed] == before
        box, frame = picture.bounding_box(), voice.page.locator(".stage").bounding_box()
        assert box is not None
        assert frame is not None
        assert frame["x"] <= box["x"]
        assert box["x"] + box["width"] <= frame["x"] + frame["width"]
        # As a browser tells it where a bot stops to send: Chromium waits for a new offer with that.
        muted = picture.evaluate_handle("video => video.srcObject.getVideoTracks()[0]")
        muted.evaluate("track => track.dispatchEvent(new Event('mute'))")
        expect(picture).to_be_hidden()
        assert [one.bounding_box() for one in fixed] == before
        muted.evaluate("track => track.dispatchEvent(new Event('unmute'))")
        expect(picture).to_be_visible()
        voice.click("Hang up")
        voice.reach("ended")
        expect(picture).to_be_hidden()
        assert voice.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_metrics_are_shown_on_request_and_the_tab_remembers_it(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.talk()
        stage.cue("metrics")
        toggle = voice.page.get_by_role("button", name="Metrics")
        rows = voice.page.get_by_role("group", name="Metrics").get_by_role("row")
        expect(toggle).to_have_attribute("aria-pressed", "false")
        expect(rows.first).to_be_hidden()
        toggle.click()
        expect(toggle).to_have_attribute("aria-pressed", "true")
        # What came before is there, too.
        for name, cells in (
            ("First byte DeepgramSTTService#0", ["–", "–"]),
            ("First byte OpenAILLMService#0", ["412 ms", "⌀ 412 ms"]),
            ("Processing OpenAILLMService#0", ["900 ms", "⌀ 900 ms"]),
            ("Characters CartesiaTTSService#0", ["38", "Σ 38"]),
            ("Tokens in", ["1,200", "Σ 1,200"]),
            ("Tokens out", ["34", "Σ 34"]),
        ):
            row = rows.filter(has=voice.page.get_by_role("rowheader", name=name))
            expect(row.get_by_role("cell")).to_have_text(cells)
        stage.cue("metrics")
        expect(voice.page.get_by_role("cell", name="Σ 2,400")).to_be_visible()
        voice.click("Hang up")
        voice.page.reload()
        voice.reads("Nothing is measured yet.")
        toggle.click()
        voice.page.reload()
        expect(toggle).to_have_attribute("aria-pressed", "false")
        expect(voice.page.get_by_text("Nothing is measured yet.")).to_be_hidden()


@pytest.mark.parametrize("level", ["DEBUG", None])
def test_session_view_follows_the_log_in_a_call_and_to_its_end(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage, level: str | None
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot, **({"logLevel": level} if level else {})))
    with visit(browser, dispatcher.url, scripted=True, viewport=PHONE if level else DESKTOP) as voice:
        session_id = voice.talk()
        open_session(voice)
        view = session_view(voice)
        expect(view).to_contain_text(session_id)
        expect(view).to_contain_text("active")
        expect(log_lines(voice).filter(has_text="a line of warning")).to_have_attribute(
            "data-level", "WARNING"
        )
        assert log_lines(voice).filter(has_text="a line at debug").count() == (1 if level else 0)
        stage.cue("hostile")
        hostile = log_lines(voice).filter(has_text="<img src=x")
        expect(hostile).to_have_text(
            "<img src=x onerror=\"document.title='owned'\"><b>bold</b> \\u202etxet\\u202c red \\x07bell"
        )
        assert view.locator("img, b").count() == 0
        assert voice.page.title() == TITLE
        long = log_lines(voice).filter(has_text="yyyy")
        expect(long).to_have_text(f"{'y' * 2000}… (58000 more)")
        stage.cue("prints")
        expect(log_lines(voice).filter(has_text="line 2499")).to_be_in_viewport()
        assert log_lines(voice).count() <= 2_000
        assert voice.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        # Whoever reads further up is left there.
        voice.page.locator("#log-lines").evaluate("list => list.scrollTo(0, 0)")
        newest = view.get_by_role("button", name="Newest lines")
        stage.cue("prints")
        newest.click()
        expect(newest).to_be_hidden()
        expect(log_lines(voice).last).to_be_in_viewport()
        # Its key closes it, and the call goes on.
        voice.page.keyboard.press("Escape")
        expect(view).to_be_hidden()
        assert voice.phase == "live"
        voice.click("Hang up")
        voice.reach("ended")
        dispatcher.wait_until_over(session_id)
        open_session(voice)
        expect(view).to_contain_text("ended (stopped)")
        expect(view).to_contain_text("The session was stopped by its client.")
        expect(log_lines(voice).last).to_have_text("Its machine is gone.", timeout=PATIENCE * 1000)


class Watched:
    """The page of a link to a session that waits for its client, with timers that a test winds on."""

    def __init__(self, voice: VoicePage, dispatcher: Dispatcher, key: str = "") -> None:
        self.voice = voice
        self.asked: list[str] = []
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        started = (
            httpx.post(f"{dispatcher.url}/start", headers=headers, json={}, timeout=PATIENCE)
            .raise_for_status()
            .json()
        )
        self.session_id = started["sessionId"]
        link = urlencode({"session": self.session_id, "token": started["sessionToken"]})
        page = voice.page
        page.on("request", lambda request: self.asked.append(request.url) if "/logs" in request.url else None)
        page.clock.install()
        page.goto(f"{dispatcher.url}/?link#{link}")
        voice.reads("Talk to shows")
        page.clock.pause_at(time.time() + 3600)

    def pass_time(self, milliseconds: int) -> None:
        self.voice.page.clock.run_for(milliseconds)
        self.voice.page.evaluate("0")  # what the page has asked for by now is known here

    def wait(self) -> int:
        """Wind on until the log is asked for again; at least so many milliseconds were between the two."""
        before, passed = len(self.asked), 0
        while len(self.asked) == before:
            assert passed < 120_000, "the log is not asked for any more"
            self.pass_time(50)
            passed += 50
        return passed

    def hide(self, hidden: bool) -> None:
        self.voice.page.evaluate(
            """hidden => {
                Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden,
        )


def test_log_is_asked_for_once_a_second_at_most_and_not_while_nobody_looks(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        watched = Watched(voice, dispatcher)
        open_session(voice)
        expect(session_view(voice)).to_contain_text("Agentshows")
        assert watched.wait() >= 1_000
        # Only what is new is asked for.
        assert "after=" not in watched.asked[0]
        assert "after=" in watched.asked[1]
        watched.hide(True)
        # A look may have been on its way.
        asked = len(watched.asked)
        watched.pass_time(60_000)
        assert len(watched.asked) == asked
        watched.hide(False)
        assert watched.wait() >= 1_000
        voice.page.route("**/logs*", lambda route: route.fulfill(status=503, json={"detail": "not now"}))
        watched.wait()
        expect(session_view(voice)).to_contain_text("The log cannot be read now; trying again in 2 s.")
        assert watched.wait() >= 2_000
        expect(session_view(voice)).to_contain_text("trying again in 4 s.")
        assert watched.wait() >= 4_000
        voice.page.unroute("**/logs*")
        watched.wait()
        expect(session_view(voice).get_by_role("status")).to_be_hidden()
        dispatcher.request("DELETE", f"/sessions/{watched.session_id}")
        dispatcher.wait_until_over(watched.session_id)
        gone = log_lines(voice).filter(has_text="Its machine is gone.")

        def has_ended() -> bool:
            watched.pass_time(1_000)
            return gone.count() == 1

        until(has_ended, PATIENCE, "the end of the log")
        asked = len(watched.asked)
        watched.pass_time(60_000)
        assert len(watched.asked) == asked


def test_closed_view_asks_for_nothing(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        watched = Watched(voice, dispatcher)
        open_session(voice)
        until(lambda: len(watched.asked) == 1, PATIENCE, "the first look")
        session_view(voice).get_by_role("button", name="Close").click()
        expect(session_view(voice)).to_be_hidden()
        # A look that was under way may be told of only now.
        watched.pass_time(1_000)
        asked = len(watched.asked)
        watched.pass_time(60_000)
        assert len(watched.asked) == asked


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (
            {"detail": "The log of machine m-1 is elsewhere: Fly keeps it.", "code": "log_elsewhere"},
            "Fly keeps it.",
        ),
        ({"detail": "Session … has no log.", "code": "no_log"}, "Nothing is printed yet."),
    ],
)
def test_view_says_why_there_is_no_log(
    start_dispatcher: StartDispatcher,
    browser: Browser,
    stage: Stage,
    problem: dict[str, str],
    says: str,
) -> None:
    dispatcher = start_dispatcher(shows=agent(stage.bot))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        watched = Watched(voice, dispatcher)
        voice.page.route("**/logs*", lambda route: route.fulfill(status=404, json=problem))
        open_session(voice)
        expect(session_view(voice)).to_contain_text(says)
        watched.pass_time(60_000)
        # What is permanent is not asked for again.
        assert (len(watched.asked) == 1) == (problem["code"] == "log_elsewhere")


def test_keys_read_logs_as_their_scope_says(
    start_dispatcher: StartDispatcher, browser: Browser, stage: Stage
) -> None:
    keys = {scope: new_key(public=True) for scope in ("start", "admin")}
    dispatcher = start_dispatcher(
        keys=[{"name": scope, "hash": hash_of(key), "scope": scope} for scope, key in keys.items()],
        shows=agent(stage.bot),
    )
    refused = "This page may not read the log: that takes a key of scope read or admin."
    for scope, says in (("start", refused), ("admin", "a line of warning")):
        with visit(browser, f"{dispatcher.url}/#key={keys[scope]}", scripted=True) as voice:
            voice.reads("Talk to shows")
            session_id = voice.talk()
            open_session(voice)
            expect(session_view(voice)).to_contain_text(says)
            expect(session_view(voice)).to_contain_text("active")
            # A link sends no key, so there is none to what would be refused.
            expect(session_view(voice).get_by_role("link")).to_have_count(0)
            assert keys[scope] not in voice.page.content()
            if scope == "start":
                expect(session_view(voice)).to_contain_text(f"make logs SESSION={session_id}")
    with visit(browser, dispatcher.url, scripted=True) as voice:
        Watched(voice, dispatcher, keys["start"])
        open_session(voice)
        expect(session_view(voice)).to_contain_text(refused)
