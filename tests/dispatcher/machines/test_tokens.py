"""The machines' tokens."""

import stat

import jwt
import pytest

from dispatcher.machines.tokens import InvalidToken, MachineTokens, load_or_create_secret
from tests.dispatcher.harness import ManualClock

SECRET = b"s" * 32


def test_a_token_names_its_machine_until_it_expires():
    clock = ManualClock()
    tokens = MachineTokens(SECRET, clock)
    token = tokens.issue("m-1", 60)
    clock.advance(60 + 300)
    assert tokens.machine_id(token) == "m-1"
    clock.advance(1)
    with pytest.raises(InvalidToken, match="expired"):
        tokens.machine_id(token)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "m-1", "exp": 4_000_000_000},
        {"sub": "m-1", "exp": 4_000_000_000, "aud": "somebody-else"},
        {"aud": "switchboard-machine", "exp": 4_000_000_000},
        {"sub": "m-1", "aud": "switchboard-machine"},
    ],
)
def test_a_token_of_another_kind_is_refused(claims):
    with pytest.raises(InvalidToken):
        MachineTokens(SECRET, ManualClock()).machine_id(jwt.encode(claims, SECRET, algorithm="HS256"))


def test_a_token_of_another_deployment_or_without_signature_is_refused():
    clock = ManualClock()
    foreign = MachineTokens(b"x" * 32, clock).issue("m-1", 60)
    claims = {"sub": "m-1", "aud": "switchboard-machine", "exp": 4_000_000_000}
    for token in (foreign, jwt.encode(claims, "", algorithm="none"), "", "a.b.c"):
        with pytest.raises(InvalidToken):
            MachineTokens(SECRET, clock).machine_id(token)


def test_the_secret_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "deep" / "key"
    secret = load_or_create_secret(path)
    assert len(secret) == 32
    assert load_or_create_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
