"""Events of a room as a listener hears them, by the events of Pipecat's DailyTransport in their order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bot.daily import RoomEvents
from tests.bot.test_observe import Listener

URL = "https://acme.daily.co/room"


class Transport:
    """Has a DailyTransport's way to add handlers, and calls them as one does."""

    room_url = URL

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    def add_event_handler(self, name: str, handler: Any) -> None:
        self._handlers[name] = handler

    async def happens(self, name: str, *arguments: Any) -> None:
        await self._handlers[name](self, *arguments)


def heard(*events: tuple[Any, ...]) -> list[object]:
    listener, transport = Listener(), Transport()
    RoomEvents(listener).attach(transport)

    async def play() -> None:
        for name, *arguments in events:
            await transport.happens(name, *arguments)

    asyncio.run(play())
    return listener.said


JOINED = ("on_joined", {})
LEFT = ("on_call_state_updated", "left")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (f"Error joining {URL}: not-allowed", "not-allowed"),
        (f"Time out joining {URL}", f"Time out joining {URL}"),
    ],
)
def test_error_before_the_join_is_a_refusal_when_it_is_about_joining(error, words):
    assert heard(("on_error", error)) == [("refused", words)]


@pytest.mark.parametrize(
    "events",
    [
        [("on_error", "Unable to start transcription: joining is off"), JOINED],
        [JOINED, ("on_error", f"Error leaving {URL}: timeout")],
        [JOINED, ("on_error", f"Error joining {URL}: again")],
        [JOINED, ("on_before_leave",), LEFT],
        [LEFT],
    ],
)
def test_other_events_end_nothing(events):
    assert heard(*events) == []


def test_bot_is_removed_when_its_call_ends_without_leaving():
    assert heard(JOINED, ("on_error", f"Disconnected from {URL}"), LEFT) == ["removed"]


def test_client_is_gone_when_last_participant_left():
    comes, leaves = "on_participant_joined", "on_participant_left"
    ada, bob = {"id": "ada"}, {"id": "bob"}
    said = heard(JOINED, (comes, ada), (comes, bob), (leaves, ada, "leftCall"), (leaves, bob, "leftCall"))
    assert said == ["client", "client", "gone"]
