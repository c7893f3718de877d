"""The Docker engine that other tests use."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.engine import DockerError, Engine, Missing, find
from tests.patience import PATIENCE

CHECKOUT = Path(__file__).resolve().parents[1]

WAITS = """
import time
from tests.engine import Engine

engine = Engine()
print((engine.directory / "dockerd.pid").read_text(), flush=True)
time.sleep(600)
"""


def test_a_container_runs_and_its_failure_is_told(engine: Engine, base_image: str) -> None:
    said = engine.docker("run", "--rm", base_image, "sh", "-c", "echo here; exit 0")
    assert said == "here"
    with pytest.raises(DockerError, match="status 7"):
        engine.docker("run", "--rm", base_image, "sh", "-c", "exit 7")


def test_containers_outlive_a_killed_engine_and_not_the_next_start(engine: Engine, base_image: str) -> None:
    # The next start ends it as `docker stop` would.
    container = engine.docker("run", "--detach", "--stop-signal", "KILL", base_image, "sleep", "600")
    pid = int(engine.docker("inspect", "--format", "{{.State.Pid}}", container))
    engine.kill()
    assert psutil.Process(pid).is_running()
    engine.start()
    assert engine.docker("inspect", "--format", "{{.State.Running}}", container) == "false"
    assert not psutil.pid_exists(pid)
    engine.docker("rm", container)


def test_the_base_has_a_python_and_trusts_what_this_machine_trusts(engine: Engine, base_image: str) -> None:
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 50)"
    assert engine.docker("run", "--rm", base_image, "python3", "-c", code) == "True"


def test_without_the_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(Missing, match=r"docker\.io"):
        find(clients=("no-such-docker",))


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Missing, match="root"):
        find()


def test_a_killed_test_run_leaves_no_engine_behind(engine: Engine) -> None:
    engine.stop()
    try:
        # Data of its own, and not the lock of the one that this run has.
        cache_home = engine.directory / "cache"
        run = subprocess.Popen(
            [sys.executable, "-c", WAITS],
            cwd=CHECKOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_CACHE_HOME": str(cache_home)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert run.stdout is not None
        dockerd = psutil.Process(int(run.stdout.readline()))
        children = dockerd.children(recursive=True)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        _, alive = psutil.wait_procs([dockerd, *children], timeout=PATIENCE)
        assert alive == []
    finally:
        engine.start()
