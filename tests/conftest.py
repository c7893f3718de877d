"""Fixtures for the tests of every folder."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# gRPC's handlers at a fork crash the child of a process that runs Pulumi's inline programs. Set before it is
# imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# Of Pulumi and Docker, which are written in Go: many short runs, of which collecting garbage is a tenth.
os.environ.setdefault("GOGC", "400")

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("switchboard", deadline=None)
hypothesis.settings.load_profile("switchboard")

pytest_plugins = [
    "tests.postgres",
    "tests.engine",
    "tests.base_image",
    "tests.podman",
    "tests.rootless",
    "tests.recent_engine",
    "tests.contracts.containers",
    "tests.registry",
]

OF_THE_ENGINE = (
    *("tests/images/", "tests/test_engine.py", "tests/stacks/docker/test_firewall.py"),
    *("tests/contracts/test_container.py", "tests/contracts/test_container_logs.py"),
    "tests/contracts/test_pull.py",
    "tests/dispatcher/machines/test_container.py",
    *("tests/e2e/test_containers.py", "tests/e2e/test_docker_stack.py", "tests/e2e/test_public_stack.py"),
    *("tests/e2e/test_torch_vad.py", "tests/dispatcher/firewall/test_rootless.py"),
)
"""Files whose tests use the one Docker engine: of several workers, one runs them all."""

NEEDS_ONE = {"engine", "podman", "recent_engine", "rootless"}
"""Fixtures with an engine."""

SPLIT = (
    "tests/test_types.py",
    *(
        "tests/stacks/local/test_engine.py",
        "tests/stacks/fly/test_engine.py",
        "tests/stacks/docker/test_engine.py",
    ),
    *("tests/stacks/local/test_whole_stack.py", "tests/stacks/test_plans.py", "tests/stacks/test_data.py"),
    "tests/stacks/engine/test_encryption.py",
    *("tests/stacks/fly/test_interrupted.py", "tests/stacks/local/test_bot_packages.py", "tests/chaos/"),
)
"""Files of the longest tests, which share nothing: several workers share a file, and begin with these."""

LONG = ("tests/e2e/", "tests/stacks/", "tests/plans/", "tests/test_")
"""Paths of files that take longer than others, so that no worker begins one when the others have done."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of asynchronous tests: asyncio's alone."""
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the engine, and put first what one worker runs alone, then what takes longest."""
    order = (OF_THE_ENGINE, SPLIT, LONG)
    items.sort(key=lambda item: [not item.nodeid.startswith(paths) for paths in order])
    for item in items:
        if item.nodeid.startswith(OF_THE_ENGINE) and NEEDS_ONE & set(getattr(item, "fixturenames", ())):
            item.add_marker("containers")


class OneWorkerForEachFile(LoadScopeScheduling):
    """Gives each file to the next free worker, so that what its tests share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(OF_THE_ENGINE):
            return "engine"
        return nodeid if nodeid.startswith(SPLIT) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    # The order is that of the collection: more tests in a file do not take longer.
    config.option.loadscopereorder = False
    return OneWorkerForEachFile(config, log)
