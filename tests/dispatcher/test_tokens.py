"""Signed tokens, and the secrets that they are signed with."""

import stat

import jwt
import pytest

from dispatcher.tokens import InvalidToken, Signer, load_or_create_secret
from tests.dispatcher.harness import START_OF_TIME, ManualClock

OLD, NEW = b"o" * 32, b"n" * 32
SOON = START_OF_TIME + 60


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "x", "exp": 4_000_000_000},
        {"sub": "x", "exp": 4_000_000_000, "aud": "somebody-else"},
        {"aud": "us", "exp": 4_000_000_000},
        {"sub": "x", "aud": "us"},
    ],
)
def test_a_token_of_another_kind_is_refused(claims):
    with pytest.raises(InvalidToken):
        Signer([OLD], ManualClock()).subject(jwt.encode(claims, OLD, algorithm="HS256"), "us")


def test_a_token_of_another_deployment_or_without_signature_is_refused():
    clock = ManualClock()
    foreign = Signer([NEW], clock).sign("x", "us", SOON)
    claims = {"sub": "x", "aud": "us", "exp": 4_000_000_000}
    for token in (foreign, jwt.encode(claims, "", algorithm="none"), "", "a.b.c", "\xe9"):
        with pytest.raises(InvalidToken):
            Signer([OLD], clock).subject(token, "us")


def test_a_secret_is_replaced_while_tokens_of_both_are_about():
    clock = ManualClock()
    before, both, turned, after = (
        Signer(secrets, clock) for secrets in ([OLD], [OLD, NEW], [NEW, OLD], [NEW])
    )
    old, new = before.sign("x", "us", SOON), turned.sign("x", "us", SOON)
    assert both.sign("x", "us", SOON) == old
    assert after.sign("x", "us", SOON) == new
    for signer in (both, turned):
        assert signer.subject(old, "us") == signer.subject(new, "us") == "x"
    with pytest.raises(InvalidToken):
        after.subject(old, "us")


def test_the_secret_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "deep" / "key"
    secret = load_or_create_secret(path)
    assert len(secret) == 32
    assert load_or_create_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
