"""The `local` stack under the real engine: up, preview, refresh, update and destroy, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from stacks.errors import ConfigError, LockedError
from stacks.local import server
from stacks.local.process import identify
from tests.ports import free_port
from tests.stacks.checkouts import CheckoutCopy, until


def only_process(checkout: CheckoutCopy) -> psutil.Process:
    (process,) = checkout.processes()
    return process


def healthy(checkout: CheckoutCopy) -> bool:
    identity = identify(only_process(checkout).pid)
    return identity is not None and server.healthy(identity, "127.0.0.1", checkout.port)


def test_up_starts_the_dispatcher_and_a_second_up_changes_nothing(checkout: CheckoutCopy) -> None:
    outputs = checkout.driver().up()
    process = only_process(checkout)
    assert outputs["url"].value == f"http://127.0.0.1:{checkout.port}"
    assert Path(outputs["log"].value).read_text().startswith("serving with")
    assert healthy(checkout)
    assert [line.split(" (")[0] for line in checkout.lines] == [
        "  + machines created",
        "  + dispatcher created",
    ]
    assert checkout.state()["dispatcher"]["outputs"]["pid"] == process.pid

    checkout.lines.clear()
    checkout.driver().up()
    assert checkout.lines == ["stack local: nothing to change"]
    assert only_process(checkout) == process


def test_the_process_is_detached_and_gets_only_what_it_is_meant_to(
    checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHO_KEY", "hunter2-but-longer")
    monkeypatch.setenv("SOMEBODYS_TOKEN", "not for a bot")
    monkeypatch.setenv("SWITCHBOARD_KEYS", '["from-the-environment-of-the-user"]')
    checkout.driver().up()
    process = only_process(checkout)
    environment = process.environ()
    assert os.getsid(process.pid) == process.pid
    assert os.getpgid(process.pid) == process.pid
    log = str(checkout.data_dir.parent / "dispatcher.log")
    assert {file.path for file in process.open_files()} <= {log}
    assert environment["ECHO_KEY"] == "hunter2-but-longer"
    assert "SOMEBODYS_TOKEN" not in environment
    assert environment["SWITCHBOARD_KEYS"] == "[]"
    assert not [name for name in environment if name.startswith("PULUMI")]
    assert environment["PATH"] == os.environ["PATH"]

    written = "".join(file.read_text() for file in checkout.state_dir.rglob("*") if file.is_file())
    assert "hunter2" not in written
    assert "from-the-environment" not in written
    fingerprint = checkout.state()["dispatcher"]["outputs"]["secretFingerprint"]
    assert set(fingerprint) == {"4dabf18193072939515e22adb298388d", "ciphertext"}


def test_changed_code_shows_in_preview_and_restarts(checkout: CheckoutCopy) -> None:
    checkout.driver().up()
    before = only_process(checkout)
    (checkout.root / "bot" / "agents" / "helper.py").write_text("x = 1\n")
    checkout.lines.clear()
    assert checkout.driver().preview() == 1
    assert checkout.lines[0] == "  ~ dispatcher: update"
    assert checkout.lines[1].strip().startswith("code: ")
    assert only_process(checkout) == before, "a preview must not touch anything"

    checkout.driver().up()
    assert identify(before.pid) is None
    assert healthy(checkout)
    assert not (checkout.data_dir / "machines-stopped").exists(), "bots live through a restart"


def test_a_changed_secret_restarts_without_being_shown(
    checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHO_KEY", "first-value")
    checkout.driver().up()
    monkeypatch.setenv("ECHO_KEY", "second-value")
    checkout.lines.clear()
    assert checkout.driver().preview() == 1
    assert not any("first-value" in line or "second-value" in line for line in checkout.lines)
    checkout.driver().up()
    assert only_process(checkout).environ()["ECHO_KEY"] == "second-value"


def test_a_changed_port_moves_the_dispatcher(checkout: CheckoutCopy) -> None:
    checkout.driver().up()
    before = only_process(checkout)
    checkout.port = free_port()
    checkout.driver(port=checkout.port).up()
    assert identify(before.pid) is None
    assert healthy(checkout)


def test_refresh_sees_a_dead_dispatcher_and_up_brings_it_back(checkout: CheckoutCopy) -> None:
    checkout.driver().up()
    only_process(checkout).kill()
    checkout.driver().refresh()
    assert "dispatcher" not in checkout.state()
    assert "machines" in checkout.state()
    checkout.lines.clear()
    assert checkout.driver().refresh() == 0
    assert checkout.lines == ["stack local: all is as the state says"]
    checkout.driver().up()
    assert healthy(checkout)


def test_up_brings_a_dead_dispatcher_back_without_a_refresh(checkout: CheckoutCopy) -> None:
    """As after a reboot."""
    checkout.driver().up()
    only_process(checkout).kill()
    checkout.lines.clear()
    assert checkout.driver().preview() == 1
    assert checkout.lines[1].strip() == "the process is not running, or does not answer"
    checkout.driver().up()
    assert healthy(checkout)


def test_destroy_stops_the_dispatcher_and_then_its_machines(checkout: CheckoutCopy) -> None:
    checkout.driver().up()
    checkout.driver().destroy()
    assert checkout.processes() == []
    assert (checkout.data_dir / "machines-stopped").exists()
    checkout.lines.clear()
    checkout.driver().destroy()
    assert checkout.lines == ["stack local is not up"]


@pytest.mark.parametrize("refreshed", [False, True])
def test_destroy_stops_the_machines_of_a_dispatcher_that_was_killed(
    checkout: CheckoutCopy, refreshed: bool
) -> None:
    checkout.driver().up()
    only_process(checkout).kill()
    if refreshed:
        checkout.driver().refresh()
    checkout.driver().destroy()
    assert checkout.processes() == []
    assert (checkout.data_dir / "machines-stopped").exists()


def test_destroy_of_what_was_never_up_asks_no_engine(checkout: CheckoutCopy) -> None:
    checkout.driver().destroy()
    assert checkout.lines == ["stack local is not up"]
    assert not (checkout.state_dir / "stacks").exists()


def test_a_failing_start_shows_the_tail_of_its_log_and_leaves_nothing(checkout: CheckoutCopy) -> None:
    checkout.fault("dies")
    with checkout.command("up") as run:
        said, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert errors.startswith("error: the dispatcher ended while it started; the end of ")
    assert errors.endswith("first line\nport 7 is cursed\n")
    assert "Traceback" not in said + errors
    assert checkout.processes() == []

    checkout.fault("")
    checkout.driver().up()
    assert healthy(checkout)


def test_a_process_that_no_state_knows_is_replaced(checkout: CheckoutCopy) -> None:
    """An engine killed between the start of the process and the writing of its state leaves this."""
    checkout.driver().up()
    orphan = only_process(checkout)
    for file in checkout.state_dir.rglob("*.json"):
        file.unlink()
    checkout.driver().up()
    assert identify(orphan.pid) is None
    assert healthy(checkout)


@pytest.fixture
def other_program(checkout: CheckoutCopy) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", checkout.port))
        listener.listen()
        yield listener


def test_a_taken_port_is_refused_before_anything_is_touched(
    checkout: CheckoutCopy, other_program: socket.socket
) -> None:
    with pytest.raises(ConfigError) as caught:
        checkout.driver().up()
    text = str(caught.value)
    assert text.startswith(f"switchboard:port: {checkout.port} is taken by process {os.getpid()} (")
    assert "\n" not in text
    assert "allowed: a free port, 1 to 65535" in text
    assert not (checkout.state_dir / "stacks").exists()


def test_the_port_of_a_running_stack_is_its_own(checkout: CheckoutCopy) -> None:
    checkout.driver().up()
    checkout.driver().check()


@pytest.fixture
def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def write_lock(checkout: CheckoutCopy, pid: int, host: str | None = None) -> Path:
    directory = checkout.state_dir / "locks" / "organization" / "switchboard" / "local"
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "6f7f8f2e-0000-4000-8000-000000000000.json"
    content = {
        "pid": pid,
        "username": "ada",
        "hostname": host or socket.gethostname(),
        "timestamp": datetime.now(UTC).isoformat(),
    }
    file.write_text(json.dumps(content))
    return file


def test_a_lock_of_the_dead_is_broken_and_said(checkout: CheckoutCopy, dead_pid: int) -> None:
    checkout.driver().up()
    lock = write_lock(checkout, dead_pid)
    checkout.driver().up()
    assert not lock.exists()
    assert healthy(checkout)


def test_a_lock_of_the_living_is_never_broken(checkout: CheckoutCopy) -> None:
    checkout.driver().up()
    lock = write_lock(checkout, os.getpid())
    with pytest.raises(LockedError) as caught:
        checkout.driver().up()
    assert str(caught.value).startswith(f"stack local is locked by ada@{socket.gethostname()} (process ")
    assert "\n" not in str(caught.value)
    assert lock.exists()


def test_a_run_that_was_killed_leaves_nothing_that_stops_the_next(checkout: CheckoutCopy) -> None:
    """kill -9 of driver and engine while the dispatcher starts."""
    checkout.driver().up()
    checkout.fault("never-ready")
    (checkout.root / "bot" / "agents" / "helper.py").write_text("x = 1\n")
    before = only_process(checkout).pid
    with checkout.command("up") as run:
        pid = wait_for_other_process(checkout, before)
        os.killpg(run.pid, signal.SIGKILL)
    assert psutil.pid_exists(pid), "the half-started dispatcher is detached, so it is still there"

    checkout.fault("")
    checkout.driver().up()
    assert healthy(checkout)
    assert only_process(checkout).pid != pid
    checkout.driver().destroy()
    # The killed engine's host of dynamic providers goes by itself, if not at once.
    until("nothing is left", lambda: checkout.everything() == [])


def wait_for_other_process(checkout: CheckoutCopy, before: int) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in checkout.processes():
            if process.pid != before:
                return process.pid
        time.sleep(0.05)
    raise AssertionError("no new dispatcher was started")


@pytest.mark.parametrize("to_all", [True, False], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_run_finishes_what_it_has_begun(checkout: CheckoutCopy, to_all: bool) -> None:
    """Ctrl-C goes to everything in the terminal's group; `kill` only to the one process."""
    checkout.fault("slow")
    with checkout.command("up") as run:
        wait_for_other_process(checkout, before=0)
        if to_all:
            os.killpg(run.pid, signal.SIGINT)
        else:
            run.terminate()
        said, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "interrupted: the engine finishes what it has begun" in said
    assert "Traceback" not in said + errors
    assert list((checkout.state_dir / "locks").rglob("*.json")) == []
    checkout.fault("")
    checkout.driver().up()
    assert healthy(checkout)
