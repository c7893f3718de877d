"""Whatever goes wrong, the page says it in words, and nothing is left behind."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Playwright

from .browser import FAKE_MICROPHONE, launch, until, visit
from .conftest import StartDispatcher
from .dispatcher import BOTS, agent
from .test_conversation import ECHO, FOX, say_and_hear

BROKEN_BOTS = {
    "raises_at_import": "the phrase book is missing",
    "raises": "the kettle is cold",
    "hangs_at_import": None,
    "never_ready": None,
    "returns_early": None,
    "no_bot": "bot",
}
"""File → what the page must say beyond the dispatcher's own sentence."""


REFUSE_ONCE = """() => {
    const { mediaDevices } = navigator;
    const real = mediaDevices.getUserMedia;
    mediaDevices.getUserMedia = async () => {
        mediaDevices.getUserMedia = real;
        throw new DOMException("refused", "NotAllowedError");
    };
}"""


@pytest.mark.parametrize(("file", "words"), BROKEN_BOTS.items(), ids=list(BROKEN_BOTS))
def test_a_bot_that_fails(
    start_dispatcher: StartDispatcher, browser: Browser, file: str, words: str | None
) -> None:
    # Those with words of their own end before; on a busy machine that takes its time.
    seconds = 4 if words is None else 30
    dispatcher = start_dispatcher(
        broken=agent(BOTS / f"{file}.py", startTimeoutSeconds=seconds, clientTimeoutSeconds=seconds)
    )
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.click("Talk")
        voice.reach("failed", 16 + seconds)
        record = dispatcher.session(voice.session_id)
        assert record["state"] == "failed", record
        assert record["message"], record
        assert voice.title == "The bot failed"
        assert voice.text == record["message"]
        if words is not None:
            assert words in record["message"] + (record["detail"] or "")
        assert voice.page.get_by_role("button", name="Try again").is_enabled()
        dispatcher.wait_until_no_machine()


def test_the_detail_of_a_failure_unfolds(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(broken=agent(BOTS / "raises_at_import.py"))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.click("Talk")
        voice.reach("failed")
        voice.page.get_by_text("What the bot left behind").click()
        voice.reads('raise RuntimeError("the phrase book is missing")')


def test_a_bot_that_is_killed(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        session_id = voice.talk()
        voice.wait_for_sound()
        dispatcher.bot(session_id).kill()
        voice.reach("failed")
        record = dispatcher.session(session_id)
        assert record["state"] == "failed", record
        assert voice.title == "The bot failed"
        assert voice.text == record["message"]


@pytest.mark.calls
def test_a_dispatcher_that_is_killed_during_a_call(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        session_id = voice.talk()
        bot = dispatcher.bot(session_id)
        voice.wait_for_sound()
        voice.wait_for_silence()

        dispatcher.kill()
        voice.reads("The dispatcher does not answer. The call itself goes on.")
        say_and_hear(voice, FOX)
        assert voice.phase == "live"

        dispatcher.start()
        until(lambda: dispatcher.session(session_id)["state"] == "active", 20, "the session known again")
        assert dispatcher.bot(session_id) == bot
        until(lambda: "does not answer" not in voice.text, 10, "the page in touch with the dispatcher again")
        voice.click("Hang up")
        assert dispatcher.wait_until_over(session_id)["state"] == "ended"
        dispatcher.wait_until_no_machine()


@pytest.mark.calls
def test_a_connection_that_breaks_and_comes_back(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        session_id = voice.talk()
        voice.wait_for_sound()
        voice.wait_for_silence()
        bot = dispatcher.bot(session_id)
        bot.suspend()
        voice.reads("Connection interrupted", 20)
        bot.resume()
        # What is heard after a long freeze is Pipecat's: its output does not always come back.
        voice.reads("Listening", 30)
        assert dispatcher.session(session_id)["state"] == "active"


@pytest.mark.calls
def test_at_capacity(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO, maxSessions=1, maxQueued=0))
    with (
        visit(browser, dispatcher.url, scripted=True) as first,
        visit(browser, dispatcher.url, scripted=True) as second,
    ):
        first.talk()
        second.click("Talk")
        second.reach("failed")
        assert second.title == "All lines are busy"
        assert second.text
        # The caller who was there first notices nothing.
        first.wait_for_sound()
        first.wait_for_silence()
        say_and_hear(first, FOX)


def test_a_dispatcher_that_is_not_there(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.reads("Talk to echo")
        dispatcher.kill()
        voice.click("Talk")
        voice.reach("failed")
        assert voice.title == "The dispatcher does not answer"


@pytest.mark.parametrize(
    ("flags", "title"),
    [
        (("--use-fake-device-for-media-stream", "--deny-permission-prompts"), "The microphone is blocked"),
        (("--use-fake-ui-for-media-stream",), "No microphone found"),
    ],
    ids=["refused", "none"],
)
def test_without_a_microphone(
    start_dispatcher: StartDispatcher, playwright: Playwright, flags: tuple[str, ...], title: str
) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    browser = launch(playwright, *flags)
    try:
        with visit(browser, dispatcher.url) as voice:
            voice.click("Talk")
            voice.reach("failed")
            assert voice.title == title
            assert voice.session_id == "", "a machine was started for a call that cannot be"
    finally:
        browser.close()


def test_a_call_after_a_failed_one(start_dispatcher: StartDispatcher, playwright: Playwright) -> None:
    """The page recovers without a reload: the permission is granted at the second try."""
    dispatcher = start_dispatcher(echo=agent(ECHO))
    browser = launch(playwright, *FAKE_MICROPHONE)
    try:
        with visit(browser, dispatcher.url) as voice:
            voice.page.evaluate(REFUSE_ONCE)
            voice.click("Talk")
            voice.reach("failed")
            assert voice.title == "The microphone is blocked"
            voice.click("Try again")
            until(lambda: voice.phase == "live", 20, "a call at the second try")
            voice.wait_for_sound()
    finally:
        browser.close()
