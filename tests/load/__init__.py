"""Real dispatchers, machines and databases that are killed, stopped and started again under load."""

import pytest

pytest.register_assert_rewrite("tests.load.checks", "tests.load.load", "tests.load.callers")
