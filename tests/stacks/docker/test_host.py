"""An engine's API over its socket and over SSH; `ssh` is a program of the tests."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacks.docker.bots import end_all
from stacks.docker.host import EngineFailed, EngineUnreachable, call, ssh_command
from tests.stacks.docker.test_engine import StandInEngine

# What `docker system dial-stdio` does at the other end: bytes from and to the engine's socket.
SSH = """\
#!{python}
import os, socket, sys, threading
open({log!r}, "w").write("\\n".join(sys.argv[1:]))
if {refuses}:
    print("Warning: Permanently added 'vm.example' to the list of known hosts.", file=sys.stderr)
    print("deploy@vm.example: Permission denied (publickey).\\r", file=sys.stderr)
    sys.exit(255)
engine = socket.socket(socket.AF_UNIX)
engine.connect({socket!r})
def back():
    while data := engine.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    engine.sendall(data)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StandInEngine]:
    with StandInEngine(tmp_path / "engine.sock") as engine:
        thread = threading.Thread(target=engine.serve_forever, daemon=True)
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()


def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, refuses: bool = False) -> Path:
    program, log = tmp_path / "bin" / "ssh", tmp_path / "ssh-log"
    program.parent.mkdir()
    socket = str(tmp_path / "engine.sock")
    program.write_text(SSH.format(python=sys.executable, log=str(log), socket=socket, refuses=refuses))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return log


@pytest.mark.parametrize(("newest", "version"), [("1.41", "v1.41"), ("1.52", "v1.44")])
def test_over_its_socket(engine: StandInEngine, tmp_path: Path, newest: str, version: str) -> None:
    engine.newest = newest
    found = call(f"unix://{tmp_path}/engine.sock", "GET", "containers/json", all="true")
    assert [one["Id"] for one in found] == ["running-bot", "exited-bot"]
    assert engine.asked == [("GET", f"/{version}/containers/json?all=true")]


def test_over_ssh(engine: StandInEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ssh(tmp_path, monkeypatch)
    host = "ssh://deploy@vm.example:2222"
    assert len(call(host, "GET", "containers/json")) == 2
    assert call(host, "DELETE", "containers/running-bot", force="true") is None
    assert log.read_text().split("\n") == ssh_command(host)[1:]
    where = ["-p", "2222", "-l", "deploy", "--", "vm.example"]
    assert ssh_command(host)[-9:] == [*where, "docker", "system", "dial-stdio"]


@pytest.mark.parametrize("host", ["ssh://MyVm", "ssh://deploy@MyVm", "ssh://deploy@MyVm:2222"])
def test_a_name_of_sshs_configuration_keeps_its_case(host: str) -> None:
    """`Host MyVm` does not match myvm."""
    assert ssh_command(host)[-5:] == ["--", "MyVm", "docker", "system", "dial-stdio"]


def test_a_host_that_does_not_let_us_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh(tmp_path, monkeypatch, refuses=True)
    with pytest.raises(EngineUnreachable) as caught:
        call("ssh://vm.example", "GET", "containers/json")
    assert str(caught.value) == (
        "the Docker engine at ssh://vm.example does not answer: "
        "deploy@vm.example: Permission denied (publickey)."
    )


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match="No such file"):
        call(f"unix://{tmp_path}/none.sock", "GET", "containers/json")


def test_an_engine_that_fails(engine: StandInEngine, tmp_path: Path) -> None:
    engine.fails = True
    with pytest.raises(EngineFailed, match="the disk is gone"):
        call(f"unix://{tmp_path}/engine.sock", "DELETE", "containers/running-bot")


def test_bots_whose_removal_is_under_way_are_waited_for(engine: StandInEngine, tmp_path: Path) -> None:
    """As the dispatcher leaves them that lists machines just before its end."""
    engine.removing = True
    end_all(f"unix://{tmp_path}/engine.sock", "calls")
    for bot in ("running-bot", "exited-bot"):
        path = f"/v1.41/containers/{bot}"
        assert [asked for asked in engine.asked if asked[1].startswith(path)][-2:] == [
            ("DELETE", f"{path}?force=true&v=true"),
            ("POST", f"{path}/wait?condition=removed"),
        ]


def test_bots_that_cannot_be_removed_are_a_failure(engine: StandInEngine, tmp_path: Path) -> None:
    engine.fails = True
    with pytest.raises(EngineFailed, match="the disk is gone"):
        end_all(f"unix://{tmp_path}/engine.sock", "calls")


def test_bots_of_other_deployments_stay_where_the_engine_filters_nothing(
    engine: StandInEngine, tmp_path: Path
) -> None:
    engine.filters = False
    end_all(f"unix://{tmp_path}/engine.sock", "calls")
    changed = {path.split("/")[3].partition("?")[0] for method, path in engine.asked if method == "DELETE"}
    assert changed == {"running-bot", "exited-bot"}
    assert not any("others-bot" in path for _, path in engine.asked)
