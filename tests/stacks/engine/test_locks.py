"""Whose lock may be broken: only that of a process of this host that is certainly gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stacks.engine.locks import break_dead_locks, locks
from stacks.errors import LockedError


def write(state: Path, **changes: Any) -> Path:
    directory = state / ".pulumi/locks/organization/switchboard/local"
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{len(list(directory.iterdir()))}.json"
    content = {
        "pid": os.getpid(),
        "username": "ada",
        "hostname": socket.gethostname(),
        # Go writes nanoseconds and the local offset.
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.123456789+00:00"),
    }
    file.write_text(json.dumps({**content, **changes}))
    return file


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_dead_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, pid=dead_pid())
    break_dead_locks(tmp_path.as_uri(), "switchboard", "local")
    assert not file.exists()
    said = capsys.readouterr().out
    assert said.startswith("an interrupted run left its lock: ada@")
    assert said.count("\n") == 1


def test_an_owner_that_nobody_has_reaped(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        file = write(tmp_path, pid=process.pid)
        break_dead_locks(tmp_path.as_uri(), "switchboard", "local")
    assert not file.exists()


def test_a_living_owner(tmp_path: Path) -> None:
    file = write(tmp_path)
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        break_dead_locks(tmp_path.as_uri(), "switchboard", "local")
    assert file.exists()


def test_a_pid_that_another_process_has_got_since(tmp_path: Path) -> None:
    file = write(tmp_path, timestamp=(datetime.now(UTC) - timedelta(days=1)).isoformat())
    break_dead_locks(tmp_path.as_uri(), "switchboard", "local")
    assert not file.exists()


def test_of_another_host_nothing_is_known(tmp_path: Path) -> None:
    file = write(tmp_path, pid=dead_pid(), hostname="elsewhere")
    with pytest.raises(LockedError, match=r"elsewhere.*remove .*if it is not alive"):
        break_dead_locks(tmp_path.as_uri(), "switchboard", "local")
    assert file.exists()


def test_one_living_owner_saves_every_lock(tmp_path: Path) -> None:
    files = [write(tmp_path, pid=dead_pid()), write(tmp_path)]
    with pytest.raises(LockedError):
        break_dead_locks(tmp_path.as_uri(), "switchboard", "local")
    assert all(file.exists() for file in files)


def test_a_lock_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path).write_text("{")
    with pytest.raises(LockedError, match="cannot be read"):
        break_dead_locks(tmp_path.as_uri(), "switchboard", "local")


@pytest.mark.parametrize("backend", ["https://api.pulumi.com", "s3://bucket", ""])
def test_other_backends_see_to_it_themselves(backend: str) -> None:
    assert locks(backend, "switchboard", "local") == []
