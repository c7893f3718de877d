"""Machines' tokens: each is valid for one machine's channel, for its session's life."""

from __future__ import annotations

from dispatcher.clock import Clock
from dispatcher.signing import Signer

AUDIENCE = "switchboard-machine"


class MachineTokens:
    """Issues and checks machines' tokens."""

    def __init__(self, signer: Signer, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock

    def issue(self, machine_id: str, lifetime_seconds: float) -> str:
        return self._signer.sign(machine_id, AUDIENCE, self._clock.now() + lifetime_seconds)

    def machine_id(self, token: str) -> str:
        """Return the machine that the token was issued for.

        Raises:
            InvalidToken: it was not issued here for a machine, or has expired.
        """
        return self._signer.subject(token, AUDIENCE)
