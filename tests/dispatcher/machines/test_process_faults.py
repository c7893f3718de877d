"""Errors of the system under a process provider: each of its calls fails, alone or with all that follow."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.process.provider import ProcessProvider
from dispatcher.machines.provider import MachineSpec, NoCapacity, Rejected, Unreachable
from tests.patience import PATIENCE
from tests.processes import words_of

T = TypeVar("T")

CALLS = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "os.mkdir", "os.symlink", "os.remove", "os.rename", "os.rmdir"),
        *("os.chmod", "os.chown", "os.kill", "os.killpg", "subprocess.Popen", "shutil.rmtree"),
    }
)
"""Audit events that Python raises before the call: https://docs.python.org/3/library/audit_events.html"""

ERRORS = (errno.EMFILE, errno.EIO)
EACH = 25
"""So many calls of one operation fail one after another; then every tenth does, and then every hundredth."""

NO_GRACE = timedelta(0)


class Faults:
    """Lets calls of the system fail. There is one: an audit hook cannot be taken away."""

    def __init__(self) -> None:
        self._left = -1
        self._errno = 0
        self._lasts = False
        self.happened = ""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._left < 0 or event not in CALLS:
            return
        if self._left == 0:
            self.happened = self.happened or f"{event} {arguments[:1]}"
        if self._left > 0 or not self._lasts:
            self._left -= 1
        if self._left <= 0 and self.happened:
            raise OSError(self._errno, os.strerror(self._errno))

    @contextmanager
    def at(self, number: int, error: int, *, lasts: bool) -> Iterator[None]:
        """Let that call fail of those made until the block ends; if it `lasts`, with all that follow."""
        self.happened, self._errno, self._lasts, self._left = "", error, lasts, number
        try:
            yield
        finally:
            self._left = -1


FAULTS = Faults()


def numbers() -> Iterator[int]:
    """Calls that are made to fail, until one is not made any more."""
    number = 0
    while True:
        yield number
        number += 1 if number < EACH else 10 if number < 10 * EACH else 100


class Host:
    def __init__(self, directory: Path) -> None:
        self.root = directory / "machines"
        self._bot_file = directory / "project" / "bot.py"
        self._bot_file.parent.mkdir()
        self._bot_file.write_text("")
        self._python = directory / "python"
        self._python.write_text("#!/bin/sh\nexec sleep 3600\n")
        self._python.chmod(0o755)
        self.provider = ProcessProvider(self.root, python=str(self._python), templates=False, isolation="off")

    def spec(self, machine_id: str) -> MachineSpec:
        return MachineSpec(
            id=machine_id,
            bot_file=str(self._bot_file),
            arguments=("--machine-id", machine_id),
            environment={},
            cpu=1.0,
            memory_mb=512,
            max_duration=timedelta(hours=1),
        )

    def leaders(self, machine_id: str) -> list[psutil.Process]:
        """The machine's leaders, by the process table."""
        directory = str(self.root / machine_id)
        return [
            one
            for one in psutil.process_iter()
            if "switchboard-machine" in words_of(one) and directory in words_of(one)
        ]

    async def until_led_once(self, machine_id: str) -> None:
        """Return once one process says that it leads the machine: a fork of it does until it is the bot."""
        async with asyncio.timeout(PATIENCE):
            while len(self.leaders(machine_id)) != 1:
                await asyncio.sleep(0.01)

    async def listed(self) -> list[str]:
        return [status.id async for status in self.provider.list()]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(tmp_path):
                process.kill()


async def told(call: Callable[[], Awaitable[T]], number: int, error: int, *, lasts: bool) -> T | Exception:
    """Answer or error of a call while calls of the system failed."""
    with FAULTS.at(number, error, lasts=lasts):
        try:
            return await call()
        except (Unreachable, NoCapacity, Rejected) as raised:
            return raised


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
async def test_a_machine_that_runs_is_never_absent(host: Host, error: int, lasts: bool) -> None:
    assert (await host.provider.create(host.spec("m-1"))).state is MachineState.started
    for number in numbers():
        found = await told(lambda: host.provider.get("m-1"), number, error, lasts=lasts)
        if not FAULTS.happened:
            break
        here = isinstance(found, MachineStatus) and found.state is MachineState.started
        assert here or isinstance(found, Unreachable), (found, FAULTS.happened)
    for number in numbers():
        listed = await told(host.listed, number, error, lasts=lasts)
        if not FAULTS.happened:
            break
        assert listed == ["m-1"] or isinstance(listed, Unreachable), (listed, FAULTS.happened)
    assert await host.listed() == ["m-1"]
    await host.until_led_once("m-1")


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
async def test_a_stop_that_fails_says_so_and_can_be_repeated(host: Host, error: int, lasts: bool) -> None:
    for number in numbers():
        machine_id = f"m-{number}"
        await host.provider.create(host.spec(machine_id))
        ended = await told(
            lambda one=machine_id: host.provider.stop(one, NO_GRACE), number, error, lasts=lasts
        )
        happened = FAULTS.happened
        if ended is not None:
            assert isinstance(ended, Unreachable), (ended, happened)
            await host.provider.stop(machine_id, NO_GRACE)
        status = await host.provider.get(machine_id)
        assert status is not None
        assert status.state is MachineState.gone, happened
        if number > EACH or not happened:
            break
    assert await host.listed() == []


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [*ERRORS, errno.ENOSPC], ids=errno.errorcode.get)
async def test_a_create_that_fails_leaves_nothing_and_can_be_repeated(
    host: Host, error: int, lasts: bool
) -> None:
    for number in numbers():
        machine_id = f"m-{number}"
        made = await told(
            lambda one=machine_id: host.provider.create(host.spec(one)), number, error, lasts=lasts
        )
        happened = FAULTS.happened
        if isinstance(made, Exception):
            assert host.leaders(machine_id) == [], (made, happened)
            made = await host.provider.create(host.spec(machine_id))
        assert isinstance(made, MachineStatus)
        assert made.state is MachineState.started
        await host.until_led_once(machine_id)
        await host.provider.stop(machine_id, NO_GRACE)
        if number > EACH or not happened:
            break
