"""Processes keep the contract: real ones that run real bots, from a template and from nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from bot.protocol import MACHINE_TOKEN_VARIABLE, Assignment, entrypoint_arguments
from bot.template import LEADER_TITLE
from dispatcher.machines.process import templates
from dispatcher.machines.process.provider import ProcessProvider
from dispatcher.machines.provider import MachineSpec, Preparation
from tests.contracts.conformance import CHECKS
from tests.contracts.harness import Harness
from tests.contracts.hostile import Harm

BOT = """
import os
from pathlib import Path

floods = Path(os.environ["SWITCHBOARD_MACHINE_ID"] + ".floods")  # beside the bot file
if floods.exists():
    unit = floods.read_bytes() * 1000
    while True:
        os.write(1, unit)

hostile = Path(os.environ["SWITCHBOARD_MACHINE_ID"] + ".hostile")  # beside the bot file
if hostile.exists():
    exec(hostile.read_text())

told = Path(os.environ["SWITCHBOARD_MACHINE_ID"] + ".exit")  # beside the bot file
if told.exists():
    os._exit(int(told.read_text()))


async def bot(runner_args): ...
"""
NOBODY = "http://127.0.0.1:9"
"""URL at which there is no dispatcher."""


class FromNothing(Harness):
    """Processes that each import what they need. The deadline is the bot's own: no dispatcher runs here."""

    deadline_kept_by = "bot"
    patience = 60.0  # an import takes seconds where the cores are shared

    def __init__(self, directory: Path) -> None:
        self._root = directory / "machines"
        self._bot_file = directory / "bot.py"
        self._harm = Harm()
        self._bot_file.write_text(BOT)

    def provider(self) -> ProcessProvider:
        return ProcessProvider(self._root)

    def neighbour(self) -> FromNothing:
        directory = self._root.parent / "neighbour"
        directory.mkdir(exist_ok=True)
        return FromNothing(directory)

    def filtering_nothing(self) -> AbstractContextManager[None]:
        """A machine's record is in its deployment's directory: there is no filter."""
        return nullcontext()

    @contextmanager
    def answering(self, asked: str, shown: str) -> Iterator[None]:
        """The record of one machine has the ids of another one's processes, as a bot may write it."""
        theirs = (self._root / shown / "pid").read_text()
        (self._root / asked).mkdir(parents=True, exist_ok=True)
        record = self._root / asked / "pid"
        own = record.read_text() if record.exists() else None
        record.write_text(theirs)
        yield
        if own is not None:
            record.write_text(own)

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        has_session = exits is not None or deadline is not None
        seconds = 3600.0 if deadline is None else deadline
        if exits is not None:
            self._bot_file.with_name(f"{machine_id}.exit").write_text(str(exits))
        session = Assignment(
            session_id=machine_id, agent="echo", transport="webrtc", max_duration_seconds=seconds
        )
        return MachineSpec(
            id=machine_id,
            bot_file=str(self._bot_file),
            # Without a session it waits for one.
            arguments=tuple(entrypoint_arguments(machine_id, NOBODY, session if has_session else None)),
            environment={MACHINE_TOKEN_VARIABLE: "token"},
            cpu=1.0,
            memory_mb=1024,
            max_duration=timedelta(seconds=seconds),
        )

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        self._bot_file.with_name(f"{machine_id}.floods").write_text(unit)
        # With a session: its bot file is imported at once.
        return self.spec(machine_id, deadline=3600.0)

    def hostile(self, machine_id: str) -> MachineSpec:
        self._bot_file.with_name(f"{machine_id}.hostile").write_text(self._harm.code(machine_id))
        return self.spec(machine_id, deadline=3600.0)

    async def harms(self, machine_id: str) -> bool:
        return self._harm.is_there(machine_id)

    async def running(self) -> list[str]:
        """The leaders, from the process table. What has just been forked still bears its parent's name."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline()).split()
                if LEADER_TITLE in words and process.status() != psutil.STATUS_ZOMBIE:
                    places = [Path(word) for word in words if Path(word).parent == self._root]
                    if places:
                        found[process.pid] = (places[0].name, process.ppid())
        return [name for name, parent in found.values() if parent not in found]

    def run(self, work):
        return asyncio.run(work)

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FromTemplate(FromNothing):
    """Processes that are forked from a template, where the first dispatcher of a check made them.

    A dispatcher that has just been restarted has no template yet.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._with_template = ProcessProvider(self._root)
        self.first = True

    def provider(self) -> ProcessProvider:
        provider = self._with_template if self.first else super().provider()
        self.first = False
        return provider

    async def prepare(self) -> None:
        await self._with_template.prepare([Preparation(str(self._bot_file), {})])
        template = await self.until(
            "the template must be ready", self._template, lambda found: found is not None
        )
        await self._with_template.create(self.spec("probe"))
        pid = int((self._root / "probe" / "pid").read_text().split()[0])
        assert psutil.Process(pid).ppid() == template, "machines are forked from it"
        await self._with_template.stop("probe", timedelta(0))

    async def close(self) -> None:
        await self._with_template.close()
        assert await self._template() is None

    async def _template(self) -> int | None:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if f"switchboard-template {self._bot_file}" in " ".join(process.cmdline()):
                    return process.pid
        return None


@pytest.fixture(scope="module")
def from_nothing(tmp_path_factory):
    harness = FromNothing(tmp_path_factory.mktemp("nothing"))
    yield harness
    assert harness.run(harness.running()) == []


@pytest.fixture(scope="module")
def from_template(tmp_path_factory):
    harness = FromTemplate(tmp_path_factory.mktemp("template"))
    try:
        harness.run(harness.prepare())
        yield harness
    finally:
        harness.run(harness.close())
    assert harness.run(harness.running()) == []


@pytest.mark.parametrize("check", CHECKS)
def test_processes_from_nothing_keep_the_contract(check, from_nothing):
    from_nothing.run(CHECKS[check](from_nothing))


@pytest.mark.skipif(not templates.SUPPORTED, reason="other systems' libraries do not stand a fork")
@pytest.mark.parametrize("check", CHECKS)
def test_processes_from_a_template_keep_the_contract(check, from_template):
    from_template.first = True
    from_template.run(CHECKS[check](from_template))
