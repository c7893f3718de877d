"""What the tests of every folder may use."""

import hypothesis
import pytest

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("switchboard", deadline=None)
hypothesis.settings.load_profile("switchboard")

pytest_plugins = [
    "tests.postgres",
    "tests.engine",
    "tests.base_image",
    "tests.contracts.containers",
    "tests.registry",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the one Docker engine is run by one worker."""
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()):
            item.add_marker("containers")
            item.add_marker(pytest.mark.xdist_group("engine"))
