"""Cursors of lists, as values."""

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.domain.errors import InvalidRequest
from dispatcher.domain.listing import Cursor

cursors = st.builds(Cursor, st.floats(allow_nan=False, allow_infinity=False), st.uuids().map(str))


@given(cursors)
def test_a_cursor_comes_back_as_it_was_and_fits_a_url(cursor):
    assert Cursor.parse(str(cursor)) == cursor
    assert re.fullmatch(r"[A-Za-z0-9_-]+", str(cursor))


@given(st.one_of(st.text(), cursors.map(str).flatmap(lambda text: st.sampled_from([text[1:], text + "A"]))))
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(InvalidRequest, match="allowed is the nextCursor of an earlier answer"):
        Cursor.parse(text)


@pytest.mark.parametrize(
    "content",
    [
        "[NaN, %s]",
        "[Infinity, %s]",
        "[1, %s]",
        "[true, %s]",
        '[1.0, "\\ud800"]',
        '[1.0, "a\\u0000b"]',
        "[1.0, 7]",
        "[1.0]",
        "[1.0, %s, 2]",
        "{}",
        "7",
        "[" * 100_000,
    ],
)
def test_what_looks_like_one_is_refused(content):
    content = content.replace("%s", json.dumps("3f2504e0-4f89-41d3-9a0c-0305e82c3301"))
    with pytest.raises(InvalidRequest):
        Cursor.parse(base64.urlsafe_b64encode(content.encode()).decode().rstrip("="))
