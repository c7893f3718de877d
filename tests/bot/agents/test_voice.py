"""The voice bot, called over a real peer connection; an endpoint on this machine stands in for OpenAI's."""

from __future__ import annotations

import asyncio

import pytest
from pipecat.runner.types import SmallWebRTCRunnerArguments
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

from bot.agents import voice
from bot.agents.voice import Misconfigured, Services
from tests.patience import PATIENCE

from .caller import ON_THE_WAY, call, likeness
from .endpoint import Endpoint, serving
from .test_echo import ALIKE, GREETING, OBJECTION, SENTENCE

pytestmark = pytest.mark.calls

VARIABLES = [f"{name}_{part}" for name in ("OPENAI", "STT", "LLM", "TTS") for part in ("API_KEY", "BASE_URL")]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*VARIABLES, "STT_MODEL", "LLM_MODEL", "TTS_MODEL", "TTS_VOICE"]:
        monkeypatch.delenv(name, raising=False)


def endpoint() -> Endpoint:
    return Endpoint(
        transcript="The early train to Lisbon leaves from platform seven.",
        answer=["Wait", " a moment,", " I meant", " the night train."],
        voices={voice.GREETING: GREETING, "Wait a moment, I meant the night train.": OBJECTION},
    )


async def test_it_hears_thinks_and_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(endpoint()) as served:
        monkeypatch.setenv("OPENAI_API_KEY", served.key)
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        monkeypatch.setenv("LLM_MODEL", "a-model")
        async with call(voice.bot) as session:
            caller = session.caller
            await caller.until_spoken()
            assert likeness(GREETING, caller.heard()) > ALIKE
            caller.say(SENTENCE)
            started, _ = await caller.until_spoken(2)
            assert likeness(SENTENCE, served.transcribed[0]) > ALIKE
            (chat,) = served.chats
            assert chat["model"] == "a-model"
            assert [message["role"] for message in chat["messages"]] == ["system", "assistant", "user"]
            assert chat["messages"][-1]["content"] == served.transcript
            assert served.spoken == list(served.voices)
            assert likeness(OBJECTION, caller.heard(since=started)) > ALIKE
            assert {"user-started-speaking", "user-transcription", "bot-llm-text"} <= {
                kind for _, kind in caller.events
            }


async def test_a_user_who_speaks_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(endpoint()) as served:
        monkeypatch.setenv("OPENAI_API_KEY", served.key)
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        async with call(voice.bot) as session:
            caller = session.caller
            await caller.until(lambda: len(caller.sounded_at()) > 25, 5, "half a second of greeting")
            caller.say(SENTENCE)
            interrupted = await caller.until_event("user-started-speaking")
            answered = await caller.until_event("bot-started-speaking", count=2)
            assert not [at for at in caller.sounded_at(interrupted + ON_THE_WAY) if at < answered]
            assert likeness(GREETING[-len(GREETING) // 3 :], caller.heard()) < ALIKE


async def test_a_refused_key_ends_the_bot_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(endpoint()) as served:
        monkeypatch.setenv("OPENAI_API_KEY", "another-key")
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        with pytest.raises(RuntimeError, match=r"OpenAITTSService.*Incorrect API key provided"):
            async with call(voice.bot) as session, asyncio.timeout(PATIENCE):
                await session.bot


async def test_a_missing_key_is_named_before_anything_happens() -> None:
    async def scenario() -> None:
        connection = SmallWebRTCConnection()
        await voice.bot(SmallWebRTCRunnerArguments(webrtc_connection=connection))

    message = "^The voice bot needs a key for STT, LLM and TTS: set OPENAI_API_KEY.$"
    with pytest.raises(Misconfigured, match=message):
        await scenario()


def test_a_key_is_never_sent_to_another_endpoint() -> None:
    environment = {"OPENAI_API_KEY": "openai's", "STT_BASE_URL": "http://elsewhere/v1"}
    with pytest.raises(Misconfigured, match=r"endpoint in STT_BASE_URL: set STT_API_KEY"):
        Services.read(environment)
    services = Services.read({**environment, "STT_API_KEY": "elsewhere's"})
    assert (services.stt.api_key, services.stt.base_url) == ("elsewhere's", "http://elsewhere/v1")
    assert (services.llm.api_key, services.llm.base_url) == ("openai's", None)


def test_an_unknown_voice_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(Misconfigured, match=r"TTS_VOICE is 'robot'; allowed are alloy, .*verse"):
        Services.read({"OPENAI_API_KEY": "k", "TTS_VOICE": "robot"})
