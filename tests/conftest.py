"""What the tests of every folder may use."""

from pathlib import Path

import hypothesis
import pytest

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("switchboard", deadline=None)
hypothesis.settings.load_profile("switchboard")

pytest_plugins = ["tests.postgres", "tests.engine", "tests.base_image", "tests.contracts.containers"]

END_TO_END = Path(__file__).with_name("e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the machine for itself: a browser's calls, and the one Docker engine."""
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()):
            item.add_marker("containers")
        elif item.path.is_relative_to(END_TO_END):
            item.add_marker("calls")
