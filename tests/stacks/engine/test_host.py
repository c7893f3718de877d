"""The process that hosts dynamic providers: it ends when its engine does, from its first moment on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.patience import PATIENCE
from tests.stacks.checkouts import REPOSITORY, until

LAUNCHER = REPOSITORY / "stacks" / "engine" / "bin" / "pulumi-resource-pulumi-python"
# As the engine does: the host's output is a pipe, whose first line is the port. Then nothing is asked.
ENGINE = f"""
import subprocess, time
host = subprocess.Popen(["{LAUNCHER}", "127.0.0.1:9"], stdout=subprocess.PIPE)
host.stdout.readline()
print(host.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "SWITCHBOARD_PYTHON": sys.executable}


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.kill()


def test_host_ends_when_engine_is_killed_before_any_provider_is_configured(
    engine: subprocess.Popen[str],
) -> None:
    assert engine.stdout is not None
    host = psutil.Process(int(engine.stdout.readline()))
    assert host.is_running()
    engine.kill()
    try:
        until("the host has ended", lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            host.kill()


def test_host_ends_when_engine_was_gone_before_it_began(environment: dict[str, str]) -> None:
    with subprocess.Popen([LAUNCHER, "127.0.0.1:9"], stdout=subprocess.PIPE, env=environment) as host:
        assert host.stdout is not None
        host.stdout.close()
        assert host.wait(timeout=PATIENCE) == 1
