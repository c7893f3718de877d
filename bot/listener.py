"""The contract of what hears about a bot's pipeline."""

from __future__ import annotations

from typing import Literal, Protocol


class Listener(Protocol):
    """Receives what the pipeline does. Called on the bot's event loop; must return at once."""

    def pipeline_started(self) -> None: ...

    def bot_in_room(self) -> None: ...

    def join_refused(self, words: str) -> None:
        """Take note that the room's service did not let the bot in; `words` is its message."""
        ...

    def removed_from_room(self) -> None:
        """Take note that the bot was in its room, did not leave, and is out of it for good."""
        ...

    def client_here(self) -> None: ...

    def client_gone(self) -> None:
        """Take note that no client is connected; one may come back."""
        ...

    def bot_spoke(self) -> None: ...

    def failed(self, error: str, *, fatal: bool) -> None:
        """Take note that a processor cannot do its job any more; `fatal` if the pipeline ends for it."""
        ...

    def latency(self, kind: Literal["first_word", "turn"], milliseconds: float) -> None: ...
