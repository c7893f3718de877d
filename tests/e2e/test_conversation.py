"""A person opens the page, presses the button, and talks with a bot in a machine of its own."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Playwright, expect

from tests.patience import PATIENCE

from .browser import AUDIBLE_DECIBELS, VoicePage, launch_with_voice, until, visit
from .conftest import StartDispatcher
from .dispatcher import BOTS, CHECKOUT, Dispatcher, agent
from .sound import ALIKE, FRAME_SECONDS, Sound, join, likeness, loudness, read_wav, silence, write_wav

ECHO = CHECKOUT / "bot" / "agents" / "echo.py"
GREETING = read_wav(ECHO.with_name("greeting.wav"))
VOICES = Path(__file__).parent / "voices"
# The beginning of the sentence: what is said and said back takes its time in every test.
FOX = read_wav(VOICES / "fox.wav").part(0.0, 1.8)
WEATHER = read_wav(VOICES / "weather.wav")
STORY = read_wav(VOICES / "story.wav")


def loop(sentence: Sound, directory: Path) -> Path:
    """A wav for the fake microphone, which plays it over and over.

    It begins with time for the bot to start and to greet: a sentence that comes earlier interrupts it.
    """
    path = directory / "microphone.wav"
    write_wav(
        path, join(silence(8.0, sentence.rate), sentence, silence(sentence.seconds + 3.0, sentence.rate))
    )
    return path


def hear(voice: VoicePage, sentence: Sound, since: float = 0, seconds: float = PATIENCE) -> None:
    """Wait until the page has received `sentence`; where it does not, the error says what came instead."""
    heard = silence(0, sentence.rate)

    def came() -> bool:
        nonlocal heard
        heard = voice.heard(since)
        return likeness(heard, sentence) > ALIKE

    try:
        # Seldom: to hand over all that it heard takes the page's time from the call.
        until(came, seconds, "the sentence in the page's audio", pause=1.0)
    except AssertionError as late:
        levels = loudness(heard)
        late.add_note(
            f"It heard {heard.seconds:.1f} s, {FRAME_SECONDS * int((levels > AUDIBLE_DECIBELS).sum()):.1f} s "
            f"of them audible; the likeness is {likeness(heard, sentence):.2f}, {ALIKE} is asked for; "
            f"the page reads: {voice.title}: {voice.text}"
        )
        raise


def say_and_hear(voice: VoicePage, sentence: Sound) -> None:
    """Say a sentence to the echo bot until it comes back.

    A person who gets no answer says it again, three times at most: audio is in real time, and what a busy
    machine drops of it is gone.
    """
    for last in (False, False, True):
        try:
            hear(voice, sentence, since=voice.say(sentence), seconds=20)
            break
        except AssertionError as lost:
            if last:
                raise
            print(lost, *lost.__notes__)


def test_another_sentence_does_not_pass_for_this_one() -> None:
    """The threshold that the tests below stand on, with the same voice and with another, and with silence."""
    said = {"fox": FOX, "weather": WEATHER, "story": STORY, "greeting": GREETING}
    for name, sentence in said.items():
        around = silence(1.0, sentence.rate)
        heard = join(around, sentence, around)
        matches = {other for other, candidate in said.items() if likeness(heard, candidate) > ALIKE}
        assert matches == {name}
    assert likeness(silence(10.0, FOX.rate), FOX) == 0.0


@pytest.mark.calls
def test_a_conversation(start_dispatcher: StartDispatcher, playwright: Playwright, tmp_path: Path) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    dispatcher.end_templates()
    browser = launch_with_voice(playwright, loop(FOX, tmp_path))
    try:
        with visit(browser, dispatcher.url) as voice:
            voice.reads("Talk to echo")
            session_id = voice.talk()
            bot = dispatcher.bot(session_id)
            hear(voice, GREETING)
            hear(voice, FOX)
            assert likeness(voice.heard(), WEATHER) < ALIKE
            assert dispatcher.session(session_id)["state"] == "active"
            steps = voice.marks()
            assert 0 == steps["click"] < steps["started"] < steps["connected"] < steps["first-sound"]
            assert "bot-ready" in steps

            voice.click("Hang up")
            voice.reach("ended")
            record = dispatcher.wait_until_over(session_id)
            assert record["state"] == "ended", record
            assert record["durationSeconds"] > 0
            bot.wait(timeout=PATIENCE)
            assert not psutil.pid_exists(bot.pid)
    finally:
        browser.close()


@pytest.mark.calls
def test_the_bot_lets_itself_be_interrupted(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.talk()
        voice.reads("Echo is speaking")
        voice.wait_for_sound()
        voice.wait_for_silence()
        voice.say(STORY)
        voice.reads("You are speaking")
        voice.page.wait_for_timeout(STORY.seconds * 1000)
        voice.wait_for_sound()
        answered = voice.now()
        # Long enough to be recognised, and far from the story's end.
        hear(voice, STORY.part(0.3, 1.8), since=answered - 500)
        interrupted = voice.say(WEATHER)
        until(lambda: not voice.hears_something(600), 2.0, "the bot falling silent while it is spoken to")
        hear(voice, WEATHER, since=interrupted)
        # By now the story would have been told to its end.
        assert likeness(voice.heard(answered - 500), STORY.part(4.0)) < ALIKE


@pytest.mark.calls
def test_two_sessions_at_once_hear_only_themselves(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    # Forked from one template, they have most in common: what they share must not be their audio.
    dispatcher.wait_for_templates()
    with (
        visit(browser, dispatcher.url, scripted=True) as one,
        visit(browser, dispatcher.url, scripted=True) as other,
    ):
        for voice in (one, other):
            voice.click("Talk")
        for voice in (one, other):
            voice.reach("live", 30)
        assert len({dispatcher.bot(voice.session_id).pid for voice in (one, other)}) == 2
        for voice in (one, other):
            voice.wait_for_silence()
        # Both calls stand all the time. One at a time speaks: two cores carry no two echoes without gaps.
        say_and_hear(one, FOX)
        say_and_hear(other, WEATHER)
        assert likeness(one.heard(), WEATHER) < ALIKE
        assert likeness(other.heard(), FOX) < ALIKE


@pytest.mark.calls
def test_a_bot_file_written_for_the_development_runner(
    start_dispatcher: StartDispatcher, browser: Browser
) -> None:
    dispatcher = start_dispatcher(parrot=agent(BOTS / "parrot.py"))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        session_id = voice.talk()
        voice.wait_for_sound()
        voice.wait_for_silence()
        say_and_hear(voice, FOX)
        voice.click("Hang up")
        assert dispatcher.wait_until_over(session_id)["state"] == "ended"
        dispatcher.wait_until_no_machine()


@pytest.mark.calls
def test_mute(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        voice.wait_for_silence()
        voice.click("Mute")
        voice.reads("You are muted")
        said = voice.say(FOX)
        voice.page.wait_for_timeout((FOX.seconds + 1.5) * 1000)
        assert not voice.hears_something(milliseconds=(FOX.seconds + 1.0) * 1000)
        voice.click("Unmute")
        say_and_hear(voice, WEATHER)
        assert likeness(voice.heard(said), FOX) < ALIKE


def test_a_person_picks_an_agent(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    # An agent's name may hold the word from which Pipecat's client derives its URLs.
    dispatcher = start_dispatcher(echo=agent(ECHO), start_parrot=agent(BOTS / "parrot.py"))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.page.get_by_label("Agent").select_option("start-parrot")
        voice.reads("Talk to start-parrot")
        # By keyboard, and with what a screen reader hears.
        voice.page.get_by_role("button", name="Talk").press("Enter")
        expect(voice.page.get_by_role("status")).to_have_text("Connected.", timeout=PATIENCE * 1000)
        session_id = voice.session_id
        assert dispatcher.session(session_id)["agent"] == "start-parrot"
        voice.click("Hang up")
        voice.reach("ended")


def test_a_closed_tab_leaves_no_machine(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        session_id = voice.talk()
        voice.page.goto(f"{dispatcher.url}/healthz")
        assert_ended(dispatcher, session_id)


def test_hanging_up_while_the_machine_starts(start_dispatcher: StartDispatcher, browser: Browser) -> None:
    dispatcher = start_dispatcher(echo=agent(ECHO))
    with visit(browser, dispatcher.url, scripted=True) as voice:
        voice.click("Talk")
        until(lambda: voice.session_id, PATIENCE, "a session")
        voice.click("Hang up")
        voice.reach("ended")
        assert_ended(dispatcher, voice.session_id)


def assert_ended(dispatcher: Dispatcher, session_id: str) -> None:
    assert dispatcher.wait_until_over(session_id)["state"] == "ended"
    dispatcher.wait_until_no_machine()
