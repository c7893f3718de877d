"""The machines' tokens."""

import pytest

from dispatcher.tokens import SESSIONS, InvalidToken, MachineTokens, Signer
from tests.dispatcher.harness import ManualClock


def test_a_token_names_its_machine_until_it_expires():
    clock = ManualClock()
    tokens = MachineTokens(Signer([b"s" * 32], clock), clock)
    token = tokens.issue("m-1", 60)
    clock.advance(60 + 300)
    assert tokens.machine_id(token) == "m-1"
    clock.advance(1)
    with pytest.raises(InvalidToken, match="expired"):
        tokens.machine_id(token)


def test_a_sessions_token_is_no_machines():
    clock = ManualClock()
    signer = Signer([b"s" * 32], clock)
    with pytest.raises(InvalidToken):
        MachineTokens(signer, clock).machine_id(signer.sign("m-1", SESSIONS, clock.now() + 60))
