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
    *("tests/images/", "tests/test_engine.py"),
    *("tests/contracts/test_container.py", "tests/contracts/test_container_logs.py"),
    "tests/contracts/test_pull.py",
    "tests/dispatcher/machines/test_container.py",
    *("tests/e2e/test_containers.py", "tests/e2e/test_docker_stack.py", "tests/e2e/test_public_stack.py"),
    *("tests/e2e/test_torch_vad.py", "tests/dispatcher/firewall/test_rootless.py"),
)
"""Files whose tests use the one Docker engine: of several workers, one runs them all."""

NEEDS_ONE = {"engine", "podman", "recent_engine", "rootless"}
"""Fixtures with an engine."""

SHARING = (
    *("tests/e2e/test_failures.py", "tests/e2e/test_runner_bots.py"),
    "tests/e2e/test_runner_alike.py",
)
"""Files whose tests share what takes long to start: one worker runs all of a file, and starts it once."""


BEGIN_WITH = (
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
"""Files whose tests take longest: of several workers, none is to begin one when the others have done."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of asynchronous tests: asyncio's alone."""
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the engine, and put first what one worker runs alone, then what takes longest."""
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith((*OF_THE_ENGINE, *SHARING)),
            not item.nodeid.startswith(BEGIN_WITH),
        )
    )
    for item in items:
        if item.nodeid.startswith(OF_THE_ENGINE) and NEEDS_ONE & set(getattr(item, "fixturenames", ())):
            item.add_marker("containers")


class OneWorkerForWhatIsShared(LoadScopeScheduling):
    """Gives every test to the next free worker, and those that share something to one of them, in turn."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(OF_THE_ENGINE):
            return "engine"
        return nodeid.partition("::")[0] if nodeid.startswith(SHARING) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return OneWorkerForWhatIsShared(config, log)
