"""Machines forked from templates: real ones, on Linux."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from bot.protocol import MACHINE_TOKEN_VARIABLE, TRACEPARENT_VARIABLE, entrypoint_arguments
from dispatcher.clock import SystemClock
from dispatcher.domain.model import MachineState
from dispatcher.machines.process import templates
from dispatcher.machines.process.provider import ProcessProvider
from dispatcher.machines.provider import MachineSpec, Preparation
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(
    not templates.SUPPORTED, reason="other systems' libraries do not stand a fork"
)

NAMED = {"NAMED": "yes"}
GRACE = timedelta(seconds=10)


class Host:
    """A provider with the template of one bot file, ready."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "machines"
        self.bot_file = directory / "bot.py"
        if not self.bot_file.exists():
            self.bot_file.write_text("import json\n\nasync def bot(runner_args): ...\n")
        self.provider = ProcessProvider(self.root, clock=SystemClock())

    def spec(self, machine_id: str = "m-1") -> MachineSpec:
        """A machine that waits for a dispatcher that is not there."""
        return MachineSpec(
            id=machine_id,
            bot_file=str(self.bot_file),
            arguments=tuple(entrypoint_arguments(machine_id, "http://127.0.0.1:9", None)),
            # The last two are this machine's own, and no template has them.
            environment={**NAMED, MACHINE_TOKEN_VARIABLE: "token", TRACEPARENT_VARIABLE: "00-1-2-01"},
            cpu=1.0,
            memory_mb=1024,
            max_duration=timedelta(hours=1),
        )

    async def create(self, machine_id: str = "m-1") -> psutil.Process:
        """Create a machine; gives its leader."""
        status = await self.provider.create(self.spec(machine_id))
        assert status.state is MachineState.started
        return psutil.Process(int((self.root / machine_id / "pid").read_text().split()[0]))

    def templates(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if "switchboard-template" in words and str(self.bot_file) in words:
                    found.append(process)
        return found


@asynccontextmanager
async def host(directory: Path):
    made = Host(directory)
    await made.provider.prepare([Preparation(str(made.bot_file), NAMED)])
    try:
        await until(lambda: made.templates() or None)
        yield made
    finally:
        async for status in made.provider.list():
            await made.provider.stop(status.id, timedelta(0))
        await made.provider.close()
        assert made.templates() == []


async def until(read):
    async with asyncio.timeout(PATIENCE):
        while (found := read()) is None:
            await asyncio.sleep(0.01)
    return found


async def until_gone(provider: ProcessProvider, machine_id: str):
    async with asyncio.timeout(PATIENCE):
        while (status := await provider.get(machine_id)) is None or status.state is not MachineState.gone:
            await asyncio.sleep(0.01)
    return status


def is_from_template(leader: psutil.Process) -> bool:
    return " ".join(leader.cmdline()).startswith("switchboard-machine")


def bot_of(leader: psutil.Process) -> psutil.Process:
    (bot,) = leader.children()
    return bot


async def assert_limited(here: Host, bot: psutil.Process) -> None:
    """It runs in its own directory with its own limits."""

    def settled():
        return bot if Path(bot.cwd()) == here.root / "m-1" / "work" else None

    await until(settled)
    assert (here.root / "m-1" / "work" / "bot.py").samefile(here.bot_file)

    def limited():
        limits = bot.rlimit(psutil.RLIMIT_DATA), bot.rlimit(psutil.RLIMIT_CPU)
        return limits if limits[1][0] != psutil.RLIM_INFINITY else None

    data, cpu = await until(limited)
    assert data[0] == 1024 * 1024 * 1024
    assert cpu[0] == 3660


async def test_a_machine_of_a_template_is_a_machine_like_any_other(tmp_path):
    """One test for all that leaves the template as it is: each template takes seconds of the processor."""

    async with host(tmp_path) as here:
        leader = await here.create()
        assert is_from_template(leader)
        assert leader.ppid() == here.templates()[0].pid
        assert os.getpgid(bot_of(leader).pid) == leader.pid != os.getpgid(0)
        await assert_limited(here, bot_of(leader))
        await here.provider.create(here.spec())
        assert [status.id async for status in here.provider.list()] == ["m-1"]
        assert [status.id async for status in ProcessProvider(here.root).list()] == ["m-1"]
        await here.provider.stop("m-1", GRACE)
        await here.provider.stop("m-1", GRACE)
        assert [status.id async for status in here.provider.list()] == []

        # How its bot ended is on record.
        for number, exit_code in {signal.SIGKILL: 137, signal.SIGSEGV: 139}.items():
            name = f"m-{number.name}"
            bot_of(await here.create(name)).send_signal(number)
            assert (await until_gone(here.provider, name)).exit_code == exit_code

        # It outlives the template, which ends with its dispatcher.
        leader = await here.create("m-2")
        assert is_from_template(leader)
        await here.provider.close()
        assert here.templates() == []
        assert leader.is_running()


async def test_machines_outlive_their_template_and_later_ones_start_without_it(tmp_path, caplog):
    async with host(tmp_path) as here:
        first = await here.create()
        template = here.templates()[0]
        template.kill()
        template.wait(PATIENCE)
        second = await here.create("m-2")
        assert not is_from_template(second)
        assert "ended with status" in caplog.text
        assert first.is_running()
        assert {status.id async for status in here.provider.list()} == {"m-1", "m-2"}


async def test_a_frozen_template_costs_a_moment_and_no_session(tmp_path):
    async with host(tmp_path) as here:
        here.templates()[0].suspend()
        leader = await here.create()
        assert not is_from_template(leader)
        assert [status.id async for status in here.provider.list()] == ["m-1"]


async def test_a_machine_imports_the_bot_file_as_it_is_by_then_and_its_neighbours_first(tmp_path):
    """Neighbours come before an installed package of their name, also where a template knows that one."""
    (tmp_path / "bot.py").write_text("import wave, pulumi\n")
    (tmp_path / "pulumi.py").write_text("print('the neighbour', flush=True)\n")

    async with host(tmp_path) as here:
        assert is_from_template(await here.create())
        await until_said(here, "m-1", "the neighbour")
        here.bot_file.write_text("print('edited', flush=True)\nimport nowhere_to_be_found\n")
        await here.create("m-2")
        await until_said(here, "m-2", "edited")


async def until_said(here: Host, machine_id: str, words: str) -> None:
    output = here.root / machine_id / "output.log"
    await until(lambda: words in output.read_text() or None)


async def test_a_bot_of_a_template_that_prints_without_end_fills_no_disk(tmp_path):
    (tmp_path / "bot.py").write_text(
        "import os, time\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "print('first words')\n"
        "for _ in range(5000): print('x' * 4000)\n"
        "print('last words', flush=True)\n"
        "os._exit(3)\n"
    )

    async with host(tmp_path) as here:
        assert is_from_template(await here.create())
        directory = here.root / "m-1"
        (directory / "work" / "go").touch()
        status = directory / "exit"
        assert await until(lambda: (status.exists() and status.read_text()) or None) == "3\n"
        files = sorted(directory.glob("output*.log"))
        assert [file.name for file in files] == ["output.1.log", "output.head.log", "output.log"]
        assert sum(file.stat().st_size for file in files) < 3.1 * 2**20
        assert "first words" in files[1].read_text()  # a log line may come between them and their end
        assert files[2].read_text().endswith("last words\n")
