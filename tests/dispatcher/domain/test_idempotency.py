"""Idempotency keys, as values."""

import json

from hypothesis import assume, given
from hypothesis import strategies as st

from dispatcher.domain.idempotency import MAX_KEY_LENGTH, claim_id, fingerprint, is_key

VISIBLE = "".join(map(chr, range(ord("!"), ord("~") + 1)))

texts = st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


def backwards(document):
    """Reverse the members of every object in a document."""
    if isinstance(document, dict):
        return {name: backwards(value) for name, value in reversed(document.items())}
    return [backwards(one) for one in document] if isinstance(document, list) else document


def same(one, other) -> bool:
    """True if two documents are the same JSON, in which `true`, `1` and `1.0` are three values."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


@given(documents)
def test_spaces_and_the_order_of_members_make_no_difference(document):
    written = json.loads(json.dumps(backwards(document), indent=3))
    assert fingerprint(written) == fingerprint(document)


@given(documents, documents)
def test_anything_else_does(one, other):
    assert (fingerprint(one) == fingerprint(other)) == same(one, other)


@given(st.data(), st.dictionaries(texts, documents, min_size=1, max_size=3))
def test_one_member_that_differs_is_enough(data, document):
    name = data.draw(st.sampled_from(sorted(document)))
    value = data.draw(documents)
    assume(not same(value, document[name]))
    assert fingerprint({**document, name: value}) != fingerprint(document)
    without = {other: document[other] for other in document if other != name}
    assert fingerprint(without) != fingerprint(document)


@given(st.text(), st.text(VISIBLE, min_size=1), st.text(), st.text(VISIBLE, min_size=1))
def test_a_key_is_its_callers_own(scope, key, other_scope, other_key):
    same_claim = (scope, key) == (other_scope, other_key)
    assert (claim_id(scope, key) == claim_id(other_scope, other_key)) == same_claim
    assert claim_id(scope, key + "x") != claim_id(scope + "x", key)


@given(st.text(max_size=300))
def test_keys_are_visible_ascii(text):
    assert is_key(text) == (1 <= len(text) <= MAX_KEY_LENGTH and set(text) <= set(VISIBLE))


@given(st.text(VISIBLE, min_size=1, max_size=MAX_KEY_LENGTH))
def test_every_visible_character_is_allowed(text):
    assert is_key(text)
