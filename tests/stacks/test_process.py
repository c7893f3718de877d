"""Real processes: known again by pid and start time, stopped for sure, and never mistaken for another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stacks.errors import ProcessError
from stacks.local import server
from stacks.local.server import Server
from stacks.shared import process
from stacks.shared.process import Identity
from tests.ports import free_port

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def sleeper() -> Iterator[Identity]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        identity = process.identify(child.pid)
        assert identity is not None
        yield identity
        child.kill()


def test_a_living_process_has_one_identity(sleeper: Identity) -> None:
    assert process.identify(sleeper.pid) == sleeper
    assert process.alive(sleeper)


def test_a_recycled_pid_is_another_process_and_is_never_signalled(sleeper: Identity) -> None:
    earlier = replace(sleeper, started="before this one")
    assert not process.alive(earlier)
    assert process.stop(earlier, grace_seconds=5)
    process.send(earlier, signal.SIGKILL)
    assert process.alive(sleeper)


def test_a_dead_process_is_dead_though_nobody_has_reaped_it() -> None:
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", ""], pass_fds=[write]) as child:
        identity = process.identify(child.pid)
        os.close(write)
        os.read(read, 1)  # returns when the child has ended, and is a zombie or about to be
        os.close(read)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert identity is not None
        assert process.identify(child.pid) is None
        assert process.stop(identity, grace_seconds=5)


def test_stop_is_gentle_first(sleeper: Identity) -> None:
    assert process.stop(sleeper, grace_seconds=10)
    assert not process.alive(sleeper)


def test_stop_kills_what_does_not_listen() -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"import signal, time; {ignore}; print(1, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        identity = process.identify(child.pid)
        assert identity is not None
        assert not process.stop(identity, grace_seconds=0.1)
        assert not process.alive(identity)


def make_server(tmp_path: Path, fault: str = "", **changes: float) -> Server:
    """The stand-in, in a checkout of its own."""
    (tmp_path / "dispatcher").mkdir()
    (tmp_path / "dispatcher" / "__main__.py").write_text(STAND_IN.read_text())
    (tmp_path / "fault").write_text(fault)
    port = free_port()
    made = Server(
        command=[sys.executable, "-m", "dispatcher"],
        cwd=tmp_path,
        environment={"SWITCHBOARD_PORT": str(port), "SWITCHBOARD_DATA_DIR": str(tmp_path)},
        log=tmp_path / "log" / "dispatcher.log",
        host="127.0.0.1",
        port=port,
        start_timeout_seconds=20,
        stop_grace_seconds=5,
    )
    return replace(made, **changes)


def running(made: Server) -> list[Identity]:
    return process.find([made.command], "SWITCHBOARD_DATA_DIR", str(made.cwd))


def test_start_returns_once_it_is_healthy_and_find_finds_it(tmp_path: Path) -> None:
    made = make_server(tmp_path)
    identity = server.start(made)
    try:
        assert server.healthy(identity, made.host, made.port)
        assert running(made) == [identity]
        assert process.find([made.command], "SWITCHBOARD_DATA_DIR", "/another") == []
    finally:
        assert process.stop(identity, 5)
    assert not server.healthy(identity, made.host, made.port)
    assert running(made) == []


def test_another_process_on_the_port_is_not_taken_for_ours(tmp_path: Path, sleeper: Identity) -> None:
    made = make_server(tmp_path)
    identity = server.start(made)
    try:
        assert not server.healthy(sleeper, made.host, made.port)
    finally:
        process.stop(identity, 5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dies", "the dispatcher ended while it started; the end of"),
        ("never-ready", "the dispatcher did not answer within 2 s of its start; the end of"),
    ],
)
def test_a_start_that_fails_leaves_nothing(tmp_path: Path, fault: str, message: str) -> None:
    made = make_server(tmp_path, fault, start_timeout_seconds=2)
    made.log.parent.mkdir()
    made.log.write_text("of an earlier run\n")
    with pytest.raises(ProcessError) as caught:
        server.start(made)
    assert str(caught.value).startswith(message)
    assert "of an earlier run" not in str(caught.value)
    assert running(made) == []


def test_a_command_that_cannot_be_run(tmp_path: Path) -> None:
    made = replace(make_server(tmp_path), command=["/no/such/python"])
    with pytest.raises(ProcessError) as caught:
        server.start(made)
    assert str(caught.value) == "/no/such/python cannot be run: No such file or directory"


def test_an_interrupted_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_server(tmp_path, "never-ready")

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "healthy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        server.start(made)
    assert running(made) == []


def test_the_holder_of_a_port_is_named(tmp_path: Path) -> None:
    made = make_server(tmp_path)
    identity = server.start(made)
    try:
        text = server.port_taken(made.port)
        by = f"process {identity.pid} ({sys.executable} -m dispatcher)"
        assert text.startswith(f"switchboard:port: {made.port} is taken by {by}")
        assert not process.port_free("127.0.0.1", made.port)
        with pytest.raises(ProcessError):
            server.start(made)
        assert running(made) == [identity]
    finally:
        process.stop(identity, 5)
    assert process.port_free("127.0.0.1", made.port)


def test_two_stops_at_once_are_fine(sleeper: Identity) -> None:
    threads = [threading.Thread(target=process.stop, args=(sleeper, 10)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not process.alive(sleeper)
