"""Bots that try to outlive their machine, or to get at what is not theirs: real processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from bot.confinement import FIRST_USER, SIGNALS_ABI, USABLE_ABI, USERS, landlock_abi
from dispatcher.domain.model import MachineState
from dispatcher.machines.process.isolation import Mode
from dispatcher.machines.process.provider import ProcessProvider
from dispatcher.machines.provider import MachineSpec
from tests.patience import PATIENCE
from tests.processes import unmistakable_seconds, words_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has orphans adopted")

LONG_GRACE = timedelta(hours=1)
HERE = Path(tempfile.gettempdir())
ESCAPES = {
    "a new session": "cd / && setsid env -i sleep MARK &",
    "an empty environment": "(cd / && exec env -i sleep MARK) &",
    "two forks": "setsid sh -c 'cd /; env -i sleep MARK & exit 0' &",
    "a child's child's child": "setsid env -i sh -c 'cd /; (setsid sleep MARK &) &' &",
}

AS_ROOT = pytest.param("users", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives users"))
LANDLOCK = pytest.param(
    "landlock", marks=pytest.mark.skipif(landlock_abi() < SIGNALS_ABI, reason="Landlock of Linux 6.12")
)


class _Host:
    """Runs machines whose bot is a shell script."""

    def __init__(self, kind: str) -> None:
        # Not the tests' own directory, which other users cannot enter.
        self.directory = Path(tempfile.mkdtemp(prefix="switchboard-", dir=HERE))
        self.directory.chmod(0o755 if kind == "users" else 0o700)
        self.root = self.directory / "data" / "machines"
        self.root.mkdir(parents=True)
        self.secret = self.directory / "data" / "machine-token.key"
        self.secret.write_text("secret")
        project = self.directory / "project"
        project.mkdir()
        self.bot_file = project / "bot.py"
        self.bot_file.write_text("")
        self.mark = unmistakable_seconds()
        self._mode: Mode = "off" if kind == "off" else "required"

    def provider(self, script: str = "") -> ProcessProvider:
        python = self.directory / "python"
        if script:
            text = script.replace("MARK", self.mark).replace("SECRET", str(self.secret))
            # The first call only looks at what its user can read.
            python.write_text(f"#!/bin/sh\ncase $2 in -c) exit 0;; esac\n{text}\n")
            python.chmod(0o755)
        return ProcessProvider(
            self.root, python=str(python), isolation=self._mode, private=(self.directory / "data",)
        )

    def spec(self, machine_id: str = "m-1") -> MachineSpec:
        return MachineSpec(
            id=machine_id,
            bot_file=str(self.bot_file),
            arguments=("--machine-id", machine_id),
            environment={},
            cpu=1.0,
            memory_mb=512,
            max_duration=timedelta(hours=1),
        )

    def leader(self) -> int:
        return int((self.root / "m-1" / "pid").read_text().split()[0])

    def escaped(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cmdline() == ["sleep", self.mark]:
                    found.append(process)
        return found

    async def until_printed(self, words: str, machine_id: str = "m-1") -> str:
        async with asyncio.timeout(PATIENCE):
            while words not in (text := (self.root / machine_id / "output.log").read_text()):
                await asyncio.sleep(0.01)
        return text

    async def until_escaped(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.escaped():
                await asyncio.sleep(0.01)

    async def until_gone(self, provider: ProcessProvider) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await provider.get("m-1")).state is not MachineState.gone:  # pyright: ignore
                await asyncio.sleep(0.01)

    def clean_up(self) -> None:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = str(self.directory) in " ".join(process.cmdline())
                if ours or process.cmdline() == ["sleep", self.mark]:
                    process.kill()
        shutil.rmtree(self.directory)


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[_Host]:
    made = _Host(request.param)
    yield made
    made.clean_up()


EVERYWHERE = pytest.mark.parametrize("host", [AS_ROOT, LANDLOCK, "off"], indirect=True)
ISOLATED = pytest.mark.parametrize("host", [AS_ROOT, LANDLOCK], indirect=True)


@EVERYWHERE
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=list(ESCAPES))
async def test_what_escapes_is_ended_by_a_restarted_dispatcher(host: _Host, escape: str) -> None:
    await host.provider(f"{escape}\nexec sleep 3600").create(host.spec())
    await host.until_escaped()
    await host.provider().stop("m-1", timedelta(seconds=0.1))
    assert host.escaped() == []


@EVERYWHERE
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=list(ESCAPES))
async def test_what_escapes_ends_with_a_bot_that_ends_by_itself(host: _Host, escape: str) -> None:
    provider = host.provider(f"{escape}\ntrap 'exit 7' TERM\nwhile :; do sleep 0.05; done")
    await provider.create(host.spec())
    await host.until_escaped()
    os.kill(host.leader() and _bot_of(host.leader()), 15)
    await host.until_gone(provider)
    assert host.escaped() == []
    status = await provider.get("m-1")
    assert status is not None
    assert status.exit_code == 7


@EVERYWHERE
async def test_a_fork_bomb_is_ended(host: _Host) -> None:
    # 2^8 shells, each with children of its own, in a session of their own.
    bomb = "b() { [ $1 -gt 0 ] || exec sleep MARK; b $(($1 - 1)) & b $(($1 - 1)) & wait; }"
    provider = host.provider(f"(cd /; {bomb}; b 7) & exec sleep 3600")
    await provider.create(host.spec())
    async with asyncio.timeout(PATIENCE):
        while len(host.escaped()) < 64:
            await asyncio.sleep(0.05)
    await provider.stop("m-1", timedelta(0))
    assert host.escaped() == []


@ISOLATED
async def test_a_bot_cannot_kill_its_leader(host: _Host) -> None:
    kill = "kill -9 $(cut -d ' ' -f 1 $SWITCHBOARD_MACHINE_DIR/pid) || echo refused"
    provider = host.provider(
        f"kill -9 $PPID || echo refused\n{kill}\n{ESCAPES['two forks']}\nexec sleep 3600"
    )
    await provider.create(host.spec())
    await host.until_escaped()
    assert (await host.until_printed("refused")).count("refused") >= 1
    assert psutil.pid_exists(host.leader())
    await host.provider().stop("m-1", timedelta(seconds=0.1))
    assert host.escaped() == []


@pytest.mark.parametrize("host", [AS_ROOT], indirect=True)
async def test_what_escapes_is_ended_when_somebody_else_has_killed_the_leader(host: _Host) -> None:
    await host.provider(f"{ESCAPES['two forks']}\nexec sleep 3600").create(host.spec())
    await host.until_escaped()
    os.kill(host.leader(), 9)
    restarted = host.provider()
    assert [status.id async for status in restarted.list()] == ["m-1"]
    await restarted.stop("m-1", timedelta(0))
    assert host.escaped() == []


@ISOLATED
async def test_a_bot_reads_and_writes_nothing_but_its_own(host: _Host) -> None:
    tries = {
        "the secret": "cat SECRET",
        "a file of another machine": "cat $SWITCHBOARD_MACHINE_DIR/../m-0/work/own",
        "a directory of another machine": "echo > $SWITCHBOARD_MACHINE_DIR/../m-0/work/other",
        "the environment of the dispatcher": f"cat /proc/{os.getpid()}/environ",
        "the environment of its leader": "cat /proc/$PPID/environ",
        "its record": "echo 0 > $SWITCHBOARD_MACHINE_DIR/exit",
        "a truncation": "truncate -s 0 SECRET",
        "a link": "ln SECRET here",
    }
    script = "\n".join(f"({attempt}) >/dev/null 2>&1 && echo 'got {name}'" for name, attempt in tries.items())
    may = "echo yes > own && echo yes > $TMPDIR/own && mkdir $XDG_CACHE_HOME/$SWITCHBOARD_MACHINE_ID"

    provider = host.provider(f"{may} && echo its own; {script}\necho done; exec sleep 3600")
    for machine_id in ("m-0", "m-1"):
        await provider.create(host.spec(machine_id))
        text = await host.until_printed("done", machine_id)
    # The last one has another.
    assert text.splitlines() == ["its own", "done"]
    for machine_id in ("m-0", "m-1"):
        await provider.stop(machine_id, timedelta(0))


@pytest.mark.parametrize("host", [AS_ROOT], indirect=True)
async def test_each_machine_of_root_has_a_user_of_its_own(host: _Host) -> None:
    provider = host.provider("id -u; id -G; grep NoNewPrivs /proc/self/status; exec sleep 3600")
    found = []
    for machine_id in ("m-1", "m-2"):
        await provider.create(host.spec(machine_id))
        text = await host.until_printed("NoNewPrivs", machine_id)
        user, groups, privileges = text.splitlines()
        assert int(user) in range(FIRST_USER, FIRST_USER + USERS)
        assert "0" not in groups.split()
        assert privileges.split() == ["NoNewPrivs:", "1"]
        assert (host.root / machine_id / "work").stat().st_uid == int(user)
        found.append(user)
    assert len(set(found)) == 2
    for machine_id in ("m-1", "m-2"):
        await provider.stop(machine_id, timedelta(0))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives users")
@pytest.mark.skipif(landlock_abi() < USABLE_ABI, reason="Landlock of Linux 5.19")
@pytest.mark.parametrize("host", ["landlock"], indirect=True)
async def test_a_bot_that_a_user_of_its_own_cannot_read_runs_as_root_and_says_so(
    host: _Host, caplog: pytest.LogCaptureFixture
) -> None:
    provider = host.provider("id -u; echo done; exec sleep 3600")
    await provider.create(host.spec())
    assert (await host.until_printed("done")).splitlines() == ["0", "done"]
    await provider.stop("m-1", timedelta(0))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"machines of {host.bot_file} run as root, with Landlock: ")
    assert "Permission denied" in warning


def _bot_of(leader: int) -> int:
    (bot,) = [child.pid for child in psutil.Process(leader).children() if "sleep" not in words_of(child)[:1]]
    return bot
