"""Whatever goes wrong, the page says it in words, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiortc import AudioStreamTrack, RTCPeerConnection
from playwright.sync_api import Browser, Playwright

from tests.patience import PATIENCE

from .browser import FAKE_MICROPHONE, launch, run_beside_browser, until, visit
from .conftest import StartDispatcher
from .dispatcher import BOTS, Dispatcher, agent
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


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """One dispatcher for all that fails without its doing: each broken bot is an agent of the file's name."""
    # Those with words of their own end before; on a busy machine that takes its time.
    seconds = {file: 4 if words is None else 30 for file, words in BROKEN_BOTS.items()}
    agents = {
        name_of(file): agent(BOTS / f"{file}.py", startTimeoutSeconds=limit, clientTimeoutSeconds=limit)
        for file, limit in seconds.items()
    }
    # A template for each of them would take longer than all their machines.
    dispatcher = Dispatcher(tmp_path_factory.mktemp("broken"), agents, forks=False)
    dispatcher.start()
    yield dispatcher
    dispatcher.stop()


def name_of(file: str) -> str:
    return file.replace("_", "-")


@pytest.mark.parametrize("forks", [False, True], ids=["from nothing", "forked"])
def test_an_offer_to_a_bot_that_cannot_be_imported_gets_one_answer(
    start_dispatcher: StartDispatcher, tmp_path: Path, forks: bool
) -> None:
    """The offer comes before the import, in the middle of it, or when the session is over."""
    file = tmp_path / "quickstart.py"
    file.write_text("import deepgram_that_is_not_there\n")
    dispatcher = start_dispatcher(forks=forks, quickstart=agent(file))
    if forks:
        dispatcher.wait_for_templates()
    offer = run_beside_browser(an_offer())
    with httpx.Client(base_url=dispatcher.url, trust_env=False, timeout=PATIENCE) as http:
        answers = []
        for wait in ("none", "started", "over"):
            query = "" if wait == "over" else f"?wait={wait}"
            session_id = http.post(f"/start{query}").json()["sessionId"]
            if wait == "over":
                dispatcher.wait_until_over(session_id)
            answers.append(http.post(f"/sessions/{session_id}/api/offer", json=offer))
            answers.append(http.post(f"/sessions/{session_id}/api/offer", json=offer))
    assert {answer.status_code for answer in answers} == {502}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert "retry-after" not in answers[0].headers
    problem = answers[0].json()
    assert problem["code"] == "invalid_bot"
    assert "No module named 'deepgram_that_is_not_there'" in problem["info"]


async def an_offer() -> dict[str, Any]:
    """Return an offer as a client makes it, and never connects it."""
    connection = RTCPeerConnection()
    connection.addTrack(AudioStreamTrack())
    await connection.setLocalDescription(await connection.createOffer())
    described = {"sdp": connection.localDescription.sdp, "type": connection.localDescription.type}
    await connection.close()
    return described


@pytest.mark.parametrize(("file", "words"), BROKEN_BOTS.items(), ids=list(BROKEN_BOTS))
def test_a_bot_that_fails(broken: Dispatcher, browser: Browser, file: str, words: str | None) -> None:
    with visit(browser, f"{broken.url}/?agent={name_of(file)}", scripted=True) as voice:
        voice.click("Talk")
        voice.reach("failed", 20 if words is None else 46)
        record = broken.session(voice.session_id)
        assert (record["state"], record["agent"]) == ("failed", name_of(file)), record
        assert record["message"], record
        assert voice.title == "The bot failed"
        assert voice.text == record["message"]
        if words is not None:
            assert words in record["message"] + (record["detail"] or "")
        assert voice.page.get_by_role("button", name="Try again").is_enabled()
        broken.wait_until_no_machine()


def test_the_detail_of_a_failure_unfolds(broken: Dispatcher, browser: Browser) -> None:
    with visit(browser, f"{broken.url}/?agent=raises-at-import", scripted=True) as voice:
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
        until(lambda: dispatcher.session(session_id)["state"] == "active", PATIENCE, "an active session")
        assert dispatcher.bot(session_id) == bot
        until(
            lambda: "does not answer" not in voice.text,
            PATIENCE,
            "a page in touch again",
        )
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
        assert second.title == "All agents are busy"
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
    broken: Dispatcher, playwright: Playwright, flags: tuple[str, ...], title: str
) -> None:
    browser = launch(playwright, *flags)
    try:
        with visit(browser, broken.url) as voice:
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
            until(lambda: voice.phase == "live", PATIENCE, "a call at the second try")
            voice.wait_for_sound()
    finally:
        browser.close()
