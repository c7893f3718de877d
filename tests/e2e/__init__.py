"""Tests of the whole path in a real browser: page, dispatcher, machine, bot."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.browser", f"{__name__}.dispatcher")
