"""The `local` stack under the real engine: up, preview, refresh, update and destroy, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from pulumi.automation import OutputValue

from stacks.engine.__main__ import next_steps
from stacks.errors import ConfigError, LockedError
from stacks.local import server
from stacks.shared.process import identify
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.stacks.checkouts import AGENTS, CheckoutCopy, until


def only_process(checkout: CheckoutCopy) -> psutil.Process:
    (process,) = checkout.processes()
    return process


def healthy(checkout: CheckoutCopy) -> bool:
    identity = identify(only_process(checkout).pid)
    return identity is not None and server.healthy(identity, "127.0.0.1", checkout.port)


def outlined(checkout: CheckoutCopy) -> list[str]:
    """The lines since the last call, without how long each step took."""
    found = [line.split(" (")[0] for line in checkout.lines]
    checkout.lines.clear()
    return found


def restarted(checkout: CheckoutCopy, before: psutil.Process) -> psutil.Process:
    """The dispatcher that has taken the place of this one; the bots have lived through that."""
    assert identify(before.pid) is None
    assert healthy(checkout)
    assert not (checkout.data_dir / "machines-stopped").exists()
    return only_process(checkout)


def assert_detached(checkout: CheckoutCopy, process: psutil.Process) -> None:
    """Assert that it gets only what it is meant to, and outlives whoever has started it."""
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


def test_from_the_first_up_to_the_end(checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test for all of it: each run of the engine takes seconds."""
    driver = checkout.driver
    monkeypatch.setenv("ECHO_KEY", "hunter2-but-longer")
    monkeypatch.setenv("SOMEBODYS_TOKEN", "not for a bot")
    monkeypatch.setenv("SWITCHBOARD_KEYS", '["from-the-environment-of-the-user"]')
    outputs = driver().up()
    process = only_process(checkout)
    assert outputs["url"].value == f"http://127.0.0.1:{checkout.port}"
    assert Path(outputs["log"].value).read_text().startswith("serving with")
    assert healthy(checkout)
    assert outlined(checkout) == ["  + machines created", "  + dispatcher created"]
    assert checkout.state()["dispatcher"]["outputs"]["pid"] == process.pid
    assert_detached(checkout, process)

    # The port of a running stack is its own.
    driver().check()
    driver().up()
    assert outlined(checkout) == ["stack local: nothing to change"]
    assert only_process(checkout) == process

    # Other code: a preview shows it and touches nothing, an up restarts.
    (checkout.root / "bot" / "agents" / "helper.py").write_text("x = 1\n")
    assert driver().preview() == 1
    assert checkout.lines[0] == "  ~ dispatcher: update"
    assert checkout.lines[1].strip().startswith("code: ")
    assert only_process(checkout) == process
    driver().up()
    process = restarted(checkout, process)

    # Another secret, which is not shown.
    monkeypatch.setenv("ECHO_KEY", "another-value")
    checkout.lines.clear()
    assert driver().preview() == 1
    assert checkout.lines[1].strip().startswith("a secret has another value, or ")
    assert not any("hunter2" in line or "another-value" in line for line in checkout.lines)
    driver().up()
    process = restarted(checkout, process)
    assert process.environ()["ECHO_KEY"] == "another-value"

    # Another port, for this run.
    checkout.port = free_port()
    driver(port=checkout.port).up()
    process = restarted(checkout, process)

    # As after a reboot: the state knows a process that is gone. So is the other port.
    process.kill()
    checkout.write_config(port=checkout.port, agents=AGENTS)
    checkout.lines.clear()
    assert driver().preview() == 1
    assert checkout.lines[1].strip().endswith("the process is not running, or does not answer")
    driver().up()
    process = restarted(checkout, process)

    # Drift is told, and written nowhere; a refresh writes it down.
    checkout.lines.clear()
    assert driver().drift() == 0
    assert checkout.lines == ["stack local: all is as the state says"]
    process.kill()
    checkout.lines.clear()
    assert driver().drift() == 1
    assert checkout.lines == ["  - dispatcher: found gone"]
    assert "dispatcher" in checkout.state()
    with checkout.command("drift") as run:
        assert "- dispatcher: found gone" in run.communicate(timeout=PATIENCE)[0]
    assert run.returncode == 2, "1 is an error's"
    checkout.lines.clear()
    assert driver().refresh() == 1
    assert checkout.lines == ["  - dispatcher: found gone"]
    assert "dispatcher" not in checkout.state()
    assert "machines" in checkout.state()
    checkout.lines.clear()
    assert driver().refresh() == 0
    assert checkout.lines == ["stack local: all is as the state says"]
    driver().up()
    restarted(checkout, process)

    driver().destroy()
    assert checkout.processes() == []
    assert (checkout.data_dir / "machines-stopped").exists()
    checkout.lines.clear()
    driver().destroy()
    assert checkout.lines == ["stack local is not up"]


def test_up_and_plan_refuse_a_variable_that_is_missing_here(
    checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack may be up or not: a shell without the variable is no wish to take it from running bots."""
    monkeypatch.delenv("ECHO_KEY")
    message = (
        "switchboard:agents.echo.env: not set here, or empty: ECHO_KEY; "
        "allowed: the value in the environment, or "
    )
    for act in (checkout.driver().up, checkout.driver().preview):
        with pytest.raises(ConfigError, match=message):
            act()
    assert not (checkout.state_dir / "stacks").exists()
    with checkout.command("up", "--unset", "ECHO_KEY") as run:
        assert "is up" in run.communicate(timeout=PATIENCE)[0]
    assert "ECHO_KEY" not in only_process(checkout).environ()
    checkout.driver().destroy()


def test_a_run_without_a_variable_of_the_dispatchers_does_not_take_it_away(
    checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of Daily's webhooks and of traces belong to whoever runs the engine, not to a config."""
    variables = {"DAILY_WEBHOOK_SECRET": "aHVudGVyMi1vZi10aGUtaG9vaw==", "OTEL_SERVICE_NAME": "voice"}
    for name, value in {"DAILY_API_KEY": "hunter2-of-daily", **variables}.items():
        monkeypatch.setenv(name, value)
    agents = {"echo": {"bot": "bot/agents/echo.py", "transports": ["webrtc", "daily"]}}
    checkout.write_config(port=checkout.port, agents=agents, daily={"domain": "acme"})
    checkout.driver().up()
    process = only_process(checkout)
    for name in variables:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(name)
            for verb in ("preview", "up"):
                with checkout.command(verb) as run:
                    said = run.communicate(timeout=PATIENCE)[1]
                assert said == (
                    f"error: {name}: is not set here, and the dispatcher has it; allowed: its value in the "
                    "environment (set it empty to do without)\n"
                )
    assert only_process(checkout) == process
    assert process.environ()["OTEL_SERVICE_NAME"] == "voice"

    monkeypatch.setenv("OTEL_SERVICE_NAME", "")
    checkout.driver().up()
    assert restarted(checkout, process).environ()["OTEL_SERVICE_NAME"] == ""
    checkout.driver().destroy()


def test_destroy_of_what_was_never_up_asks_no_engine(checkout: CheckoutCopy) -> None:
    checkout.driver().destroy()
    assert checkout.lines == ["stack local is not up"]
    assert not (checkout.state_dir / "stacks").exists()


def test_a_run_that_does_not_get_to_its_end_leaves_nothing_that_stops_the_next(
    checkout: CheckoutCopy, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start that fails, Ctrl-C, SIGTERM, SIGKILL and a lost state, each on what the one before has left."""
    checkout.fault("dies")
    with checkout.command("up") as run:
        said, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1
    assert errors.startswith("error: the dispatcher ended while it started; the end of ")
    assert errors.endswith("first line\nport 7 is cursed\n")
    assert "Traceback" not in said + errors
    assert checkout.processes() == []

    # Ctrl-C goes to everything in the terminal's group; `kill` only to the one process.
    checkout.fault("slow")
    interrupted(checkout, lambda run: os.killpg(run.pid, signal.SIGINT))
    change_code(checkout)
    interrupted(checkout, lambda run: run.terminate())

    # kill -9 of driver and engine while the dispatcher starts.
    checkout.fault("never-ready")
    change_code(checkout)
    before = only_process(checkout).pid
    with checkout.command("up") as run:
        pid = wait_for_other_process(checkout, before)
        os.killpg(run.pid, signal.SIGKILL)
    assert psutil.pid_exists(pid), "the half-started dispatcher is detached, so it is still there"
    (lock,) = lock_files(checkout)
    checkout.fault("")
    # Who only looks changes nothing: neither the state, nor what is there.
    state_file = checkout.state_dir / "stacks" / "switchboard" / "local.json"
    left = state_file.read_text()
    checkout.lines.clear()
    checkout.driver().preview()
    assert "an interrupted run left its lock: " in capsys.readouterr().out
    assert not lock.exists()
    told = "an interrupted run had begun to change dispatcher; what came of it, the next `make up` looks at"
    assert [line for line in checkout.lines if line.startswith(told)]
    checkout.lines.clear()
    checkout.driver().drift()
    assert [line for line in checkout.lines if line.startswith(told)]
    assert state_file.read_text() == left
    checkout.lines.clear()
    checkout.driver().up()
    told = "an interrupted run had begun to change dispatcher: looking what came of it"
    assert told in checkout.lines
    assert healthy(checkout)
    assert only_process(checkout).pid != pid

    # An engine killed between the start of the process and the writing of its state leaves an orphan.
    orphan = only_process(checkout)
    for file in checkout.state_dir.rglob("*.json"):
        file.unlink()
    checkout.driver().up()
    assert identify(orphan.pid) is None
    assert healthy(checkout)

    # The machines of a dispatcher that no state knows any more have their end with the stack.
    only_process(checkout).kill()
    checkout.driver().refresh()
    checkout.driver().destroy()
    assert (checkout.data_dir / "machines-stopped").exists()
    # The killed engine's host of dynamic providers goes by itself, if not at once.
    until("nothing is left", lambda: checkout.everything() == [])


def interrupted(checkout: CheckoutCopy, interrupt: Callable[[subprocess.Popen[str]], None]) -> None:
    """An up that is interrupted while a dispatcher starts: it finishes what it has begun."""
    before = [process.pid for process in checkout.processes()]
    with checkout.command("up") as run:
        wait_for_other_process(checkout, *before)
        interrupt(run)
        said, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    assert "interrupted: the engine finishes what it has begun" in said
    assert "Traceback" not in said + errors
    assert lock_files(checkout) == []
    assert healthy(checkout)
    assert checkout.state()["dispatcher"]["outputs"]["pid"] == only_process(checkout).pid


def change_code(checkout: CheckoutCopy) -> None:
    """Change code so that a dispatcher restarts."""
    with (checkout.root / "bot" / "agents" / "helper.py").open("a") as file:
        file.write("x = 1\n")


def wait_for_other_process(checkout: CheckoutCopy, *before: int) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for process in checkout.processes():
            if process.pid not in before:
                return process.pid
        time.sleep(0.05)
    raise AssertionError("no new dispatcher was started")


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


def lock_files(checkout: CheckoutCopy) -> list[Path]:
    return list((checkout.state_dir / "locks").rglob("*.json"))


def test_a_lock_of_the_living_is_never_broken(checkout: CheckoutCopy) -> None:
    lock = checkout.state_dir / "locks" / "organization" / "switchboard" / "local" / "6f7f8f2e.json"
    lock.parent.mkdir(parents=True)
    content = {
        "pid": os.getpid(),
        "username": "ada",
        "hostname": socket.gethostname(),
        "timestamp": datetime.now(UTC).isoformat(),
    }
    lock.write_text(json.dumps(content))
    with pytest.raises(LockedError) as caught:
        checkout.driver().up()
    assert str(caught.value).startswith(f"stack local is locked by ada@{socket.gethostname()} (process ")
    assert "\n" not in str(caught.value)
    assert lock.exists()
    assert checkout.processes() == []


def test_up_prints_how_to_start_a_session_and_then_the_address(checkout: CheckoutCopy) -> None:
    with checkout.command("up") as run:
        said, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, errors
    *_, title, command, address = said.splitlines()
    assert (title, address) == ("start a session:", f"http://127.0.0.1:{checkout.port}")
    assert command.startswith(f"  curl --fail-with-body -X POST {address}/start ")


def test_a_run_that_was_killed_as_it_wrote_the_state_keeps_no_later_one_from_it(
    checkout: CheckoutCopy,
) -> None:
    checkout.driver().preview()
    state = checkout.state_dir / "stacks" / "switchboard" / "local.json"
    attributes = state.with_name(f"{state.name}.attrs")
    before = state.read_bytes()
    attributes.write_bytes(b"")
    checkout.lines.clear()

    checkout.driver().preview()

    assert state.read_bytes() == before
    assert not attributes.exists() or attributes.read_bytes() != b""
    assert any("create" in line for line in checkout.lines), checkout.lines


def test_dns_records_are_printed_when_a_stack_needs_some() -> None:
    records = ["voice.example.com A 192.0.2.1", "voice.example.com AAAA 2001:db8::1"]
    assert next_steps({"records": OutputValue(records, False)}) == [
        "DNS records that have to be there:",
        "  voice.example.com A 192.0.2.1",
        "  voice.example.com AAAA 2001:db8::1",
    ]
    assert next_steps({"records": OutputValue([], False)}) == []
