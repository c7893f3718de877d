"""WebSocket: the client opens one to the dispatcher, which joins it to one that the machine has opened."""

from __future__ import annotations

from collections.abc import Collection

from dispatcher.transports.transport import Prepared, Wanted


class WebSocket:
    """The `websocket` transport."""

    ready_needs_client = True
    prepare_calls = False

    def check(self, wanted: Wanted, allowed: Collection[str] = ()) -> None:
        """Accept anything: what is said of rooms is for other transports, as on Pipecat Cloud."""

    async def prepare(self, session_id: str, wanted: Wanted, until: float, deadline: float) -> Prepared:
        # The client's token is made with each answer; the address's host is the one that the client called.
        return Prepared({"wsUrl": f"/sessions/{session_id}/ws"})
