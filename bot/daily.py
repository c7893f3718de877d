"""Events of a Daily bot's room, as its transport reports them: the join, the clients, the bot's removal.

Pipecat's transport reports a refused join and a lost call as errors after which the pipeline goes on, and
pushes no frame when a participant leaves: an observer of frames cannot see them. Imports nothing of Pipecat.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from bot.listener import Listener

_MODULE = "pipecat.transports.daily.transport"


class RoomEvents:
    """Tells a listener what happens in one transport's room."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._joined = self._leaving = False
        self._clients: set[str] = set()

    def attach(self, transport: Any) -> None:
        """Listen to the transport's events; the bot's own handlers stay."""
        transport.add_event_handler("on_joined", self._on_joined)
        transport.add_event_handler("on_error", self._on_error)
        transport.add_event_handler("on_before_leave", self._on_before_leave)
        transport.add_event_handler("on_call_state_updated", self._on_call_state_updated)
        transport.add_event_handler("on_participant_joined", self._on_participant_joined)
        transport.add_event_handler("on_participant_left", self._on_participant_left)

    async def _on_joined(self, _transport: Any, _data: Any) -> None:
        self._joined = True

    async def _on_error(self, transport: Any, error: Any) -> None:
        # "Error joining <URL>: …", or "Time out joining <URL>" of older releases. Other errors before
        # `on_joined`, such as that of a transcription, leave the bot in its room.
        text = str(error)
        before, url, words = text.partition(transport.room_url)
        if not self._joined and url and "joining" in before:
            self._listener.join_refused(words.removeprefix(": ") or text)

    async def _on_before_leave(self, _transport: Any) -> None:
        self._leaving = True

    async def _on_call_state_updated(self, _transport: Any, state: Any) -> None:
        # daily-core reconnects; a call that it gives up is over. A call that the bot leaves is reported
        # before.
        if state == "left" and self._joined and not self._leaving:
            self._listener.removed_from_room()

    async def _on_participant_joined(self, _transport: Any, participant: Any) -> None:
        self._clients.add(participant["id"])
        self._listener.client_here()

    async def _on_participant_left(self, _transport: Any, participant: Any, _reason: Any) -> None:
        self._clients.discard(participant["id"])
        if not self._clients:
            self._listener.client_gone()


def attach(worker: Any, listener: Listener) -> bool:
    """Listen to the rooms of a worker's Daily transports; return False if it has none."""
    module = sys.modules.get(_MODULE)
    if module is None:
        return False
    # A transport's processor has only a private attribute for it; a processor without it is skipped.
    named = (getattr(processor, "_transport", None) for processor in _processors(worker.pipeline))
    transports = {id(one): one for one in named if isinstance(one, module.DailyTransport)}
    for transport in transports.values():
        RoomEvents(listener).attach(transport)
    return bool(transports)


def _processors(of: Any) -> Iterator[Any]:
    for processor in of.processors:
        yield processor
        yield from _processors(processor)
