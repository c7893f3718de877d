"""Machines as processes: real ones."""

import asyncio
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from bot.arguments import parse, pop_private
from bot.protocol import MACHINE_TOKEN_VARIABLE, Assignment, IceServer, entrypoint_arguments
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.process.environment import in_private
from dispatcher.machines.process.provider import NEVER_RAN_SECONDS, ProcessProvider
from dispatcher.machines.process.templates import SUPPORTED
from dispatcher.machines.provider import MachineSpec, Preparation, Rejected, Unreachable
from tests.dispatcher.harness import ManualClock
from tests.patience import PATIENCE
from tests.processes import unmistakable_seconds, words_of

CHECKOUT = Path(__file__).resolve().parents[3]
NO_GRACE = timedelta(0)
SLEEP = "echo up; exec sleep 3600"
LONG_GRACE = timedelta(hours=1)
GONE = MachineStatus("m-1", MachineState.gone)
"""As good as no word of a machine whose record its bot has spoilt."""


@pytest.fixture
def machines(tmp_path):
    """Makes machines that run a shell script instead of a bot, and leaves none behind."""
    made = _Machines(tmp_path)
    yield made
    made.kill_all()


class _Machines:
    def __init__(self, directory: Path) -> None:
        self.root = directory / "machines"
        self.bot_file = directory / "project" / "bot.py"
        self.bot_file.parent.mkdir()
        self.bot_file.write_text("")
        self._script = directory / "python"

    def provider(self, script: str | None = None, **more) -> ProcessProvider:
        """A provider whose interpreter runs this script, whatever its arguments; or the one before."""
        if script is not None:
            self._script.write_text(f"#!/bin/sh\n{script}\n")
            self._script.chmod(0o755)
        return ProcessProvider(self.root, python=str(self._script), **more)

    def spec(self, machine_id: str = "m-1", **more) -> MachineSpec:
        values = {
            "id": machine_id,
            "bot_file": str(self.bot_file),
            "arguments": ("--machine-id", machine_id),
            "environment": {"NAMED": "yes"},
            "cpu": 1.0,
            "memory_mb": 512,
            "max_duration": timedelta(hours=1),
        }
        return MachineSpec(**(values | more))

    def output(self, machine_id: str = "m-1") -> str:
        return (self.root / machine_id / "output.log").read_text()

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                # One that is exiting still has a directory, but no memory and so no words.
                if Path(process.cwd()).is_relative_to(self.root.parent) and process.cmdline():
                    found.append(process)
        return found

    def leaders(self) -> list[str]:
        told = [words_of(process) for process in self.processes()]
        return [words[5] for words in told if "switchboard-machine" in words]

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


async def until_gone(provider: ProcessProvider, machine_id: str = "m-1"):
    async with asyncio.timeout(PATIENCE):
        while True:
            status = await provider.get(machine_id)
            assert status is not None
            if status.state is MachineState.gone:
                return status
            await asyncio.sleep(0.01)


async def until_printed(machines: _Machines, words: str, machine_id: str = "m-1") -> None:
    async with asyncio.timeout(PATIENCE):
        while words not in machines.output(machine_id):
            await asyncio.sleep(0.01)


async def test_create_is_idempotent_and_list_tells_what_runs(machines):
    provider = machines.provider(SLEEP)
    await provider.create(machines.spec())
    await provider.create(machines.spec())
    await provider.create(machines.spec("m-2"))
    assert {status.id async for status in provider.list()} == {"m-1", "m-2"}
    for machine_id in ("m-1", "m-2"):  # until then the fork that becomes the bot looks like its leader
        await until_printed(machines, "up", machine_id)
    assert sorted(machines.leaders()) == ["m-1", "m-2"]
    await provider.stop("m-1", LONG_GRACE)
    assert [status.id async for status in provider.list()] == ["m-2"]


async def test_an_unknown_machine_is_none_and_stopping_it_is_fine(machines):
    provider = machines.provider()
    assert await provider.get("m-1") is None
    await provider.stop("m-1", NO_GRACE)


async def test_a_restarted_dispatcher_sees_the_same_truth(machines):
    await machines.provider(SLEEP).create(machines.spec())
    restarted = machines.provider()
    status = await restarted.get("m-1")
    assert status is not None
    assert status.state is MachineState.started
    assert [status.id async for status in restarted.list()] == ["m-1"]
    await restarted.create(machines.spec())
    await restarted.stop("m-1", LONG_GRACE)
    await restarted.stop("m-1", LONG_GRACE)
    assert machines.processes() == []


@pytest.mark.parametrize(
    ("script", "exit_code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -11 $$", 139)]
)
async def test_the_exit_status_outlives_the_bot_and_the_dispatcher(machines, script, exit_code):
    await machines.provider(f"echo last words; {script}").create(machines.spec())
    status = await until_gone(machines.provider())
    assert status.exit_code == exit_code
    assert "last words" in status.output


async def test_a_leader_that_was_killed_leaves_no_exit_status_and_no_bot(machines):
    provider = machines.provider("echo up; sleep 3661; true")
    await provider.create(machines.spec())
    await until_printed(machines, "up")
    os.kill(int((machines.root / "m-1" / "pid").read_text().split()[0]), signal.SIGKILL)
    restarted = machines.provider()
    status = await restarted.get("m-1")
    assert status is not None
    assert status.state is MachineState.started, "its bot still runs"
    await restarted.stop("m-1", LONG_GRACE)
    assert (await until_gone(restarted)).exit_code is None
    assert machines.processes() == []


async def test_stop_asks_first_and_forces_after_the_grace(machines):
    polite = machines.provider("trap 'echo goodbye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    await polite.create(machines.spec())
    await until_printed(machines, "up")
    await polite.stop("m-1", LONG_GRACE)
    assert "goodbye" in machines.output()
    assert (await until_gone(polite)).exit_code == 0

    deaf = machines.provider("trap '' TERM; echo up; while :; do sleep 0.05; done")
    await deaf.create(machines.spec("m-2"))
    await deaf.stop("m-2", timedelta(seconds=0.2))
    assert machines.processes() == []


async def test_what_the_bot_leaves_in_its_group_is_ended_with_it(machines):
    provider = machines.provider("sleep 3662 & exit 0")
    await provider.create(machines.spec())
    await provider.stop("m-1", LONG_GRACE)
    assert machines.processes() == []


@pytest.mark.parametrize("garbage", ["", "x", "-1", "12", "1 2 3", "99999999999999999999999 1", "\x00"])
async def test_what_the_bot_writes_into_its_record_harms_nobody(machines, garbage):
    provider = machines.provider("exit 0")
    await provider.create(machines.spec())
    await until_gone(provider)
    for name in ("pid", "exit"):
        (machines.root / "m-1" / name).write_text(garbage)
    await provider.get("m-1")
    await provider.stop("m-1", NO_GRACE)
    await machines.provider(SLEEP).create(machines.spec("m-2"))
    assert [status.id async for status in provider.list()] == ["m-2"]


@pytest.mark.parametrize(
    "escape", ["setsid sleep SECONDS &", "(cd / && exec sleep SECONDS) &"], ids=["session", "child"]
)
async def test_what_the_bot_lets_out_of_its_group_is_ended_with_it(machines, escape):
    seconds = unmistakable_seconds()
    provider = machines.provider(f"{escape.replace('SECONDS', seconds)}\necho up; exec sleep 3600")
    await provider.create(machines.spec())
    await until_printed(machines, "up")
    await provider.stop("m-1", NO_GRACE)
    # A process that was killed as it became another program is that for a moment yet.
    async with asyncio.timeout(PATIENCE):
        while any(seconds in words_of(process) for process in psutil.process_iter()):
            await asyncio.sleep(0.01)


async def test_a_variable_that_no_process_can_have_is_refused_and_nothing_runs(machines):
    provider = machines.provider(SLEEP)
    with pytest.raises(Rejected):
        await provider.create(machines.spec(environment={"NAMED": "a\0b"}))
    assert machines.processes() == []


async def test_a_recycled_pid_is_never_taken_for_a_machine(machines):
    provider = machines.provider("exit 0")
    await provider.create(machines.spec())
    await until_gone(provider)
    (machines.root / "m-1" / "exit").unlink()
    (machines.root / "m-1" / "pid").write_text(f"{os.getpid()} {os.getpgrp()}")
    restarted = machines.provider()
    await restarted.stop("m-1", NO_GRACE)  # or this test's own process group would be gone
    assert (await until_gone(restarted)).exit_code is None


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _directory(path: Path) -> None:
    path.mkdir()


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def _unreadable(path: Path) -> None:
    path.touch(mode=0)


@pytest.mark.parametrize("name", ["pid", "exit", "output.log"])
@pytest.mark.parametrize("put", [_fifo, _endless, _directory, _huge, _unreadable])
async def test_what_the_bot_puts_in_the_place_of_a_file_keeps_nobody_waiting(machines, name, put):
    provider = machines.provider(SLEEP)
    await provider.create(machines.spec())
    await until_printed(machines, "up")
    (machines.root / "m-1" / name).unlink(missing_ok=True)
    put(machines.root / "m-1" / name)
    async with asyncio.timeout(PATIENCE):
        for again in (provider, machines.provider()):
            assert (await again.get("m-1")).state is MachineState.started
            assert [status.id async for status in again.list()] == ["m-1"]
        await provider.stop("m-1", LONG_GRACE)
        assert (await provider.get("m-1") or GONE).state is MachineState.gone
    assert machines.processes() == []


async def test_a_bot_that_removes_its_record_is_seen_and_stopped(machines):
    provider = machines.provider(f"rm $SWITCHBOARD_MACHINE_DIR/pid; {SLEEP}", isolation="off")
    await provider.create(machines.spec())
    await until_printed(machines, "up")
    assert (await provider.get("m-1")).state is MachineState.started
    assert [status.id async for status in provider.list()] == ["m-1"]
    await provider.stop("m-1", LONG_GRACE)
    assert machines.processes() == []


async def test_a_bot_that_removes_its_directory_is_seen_and_stopped(machines):
    provider = machines.provider("rm -r $SWITCHBOARD_MACHINE_DIR; exec sleep 3600", isolation="off")
    await provider.create(machines.spec())
    async with asyncio.timeout(PATIENCE):
        while (machines.root / "m-1").exists():
            await asyncio.sleep(0.01)
    assert (await provider.get("m-1")).state is MachineState.started
    assert [status.id async for status in provider.list()] == ["m-1"]
    await provider.stop("m-1", LONG_GRACE)
    assert await provider.get("m-1") is None
    assert [status async for status in provider.list()] == []


async def test_a_bot_that_writes_an_exit_status_and_runs_on_is_not_gone(machines):
    provider = machines.provider(f"echo 0 > $SWITCHBOARD_MACHINE_DIR/exit; {SLEEP}", isolation="off")
    await provider.create(machines.spec())
    await until_printed(machines, "up")
    assert (await provider.get("m-1")).state is MachineState.started
    assert [status.id async for status in provider.list()] == ["m-1"]


async def test_a_bot_that_records_another_machines_group_has_only_its_own_ended(machines):
    provider = machines.provider(SLEEP)
    for machine_id in ("m-1", "m-2"):
        await provider.create(machines.spec(machine_id))
        await until_printed(machines, "up", machine_id)
    records = [machines.root / machine_id / "pid" for machine_id in ("m-1", "m-2")]
    (leader, _), (_, group) = (record.read_text().split() for record in records)
    records[0].write_text(f"{leader} {group}")
    await provider.stop("m-1", LONG_GRACE)
    assert machines.leaders() == ["m-2"]


async def test_nothing_is_gone_where_the_system_has_no_descriptor_left(machines):
    provider = machines.provider(SLEEP)
    await provider.create(machines.spec())
    await until_printed(machines, "up")
    with no_descriptors():
        for call in (provider.get("m-1"), provider.stop("m-1", NO_GRACE), anext(provider.list())):
            with pytest.raises(Unreachable, match="Too many open files"):
                await call
    assert (await provider.get("m-1")).state is MachineState.started
    assert [status.id async for status in provider.list()] == ["m-1"]


@contextmanager
def no_descriptors():
    """The system gives this process no more file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.open("/dev/null", os.O_RDONLY)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_the_environment_is_clean_and_the_neighbours_are_there(machines, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never")
    (machines.bot_file.parent / "prompt.txt").write_text("Be brief.")
    (machines.bot_file.parent / ".env").write_text("SECRET=1")
    (machines.bot_file.parent / ".git").mkdir()

    provider = machines.provider("env; cat prompt.txt; ls -A; touch made-here; echo done")
    await provider.create(machines.spec())
    await until_gone(provider)
    output = machines.output()
    assert "NAMED=yes" in output
    assert "never" not in output
    assert f"SWITCHBOARD_BOT_FILE={machines.bot_file}" in output
    assert "Be brief." in output
    assert ".env\n" in output, "bots read it by its name"
    assert ".git" not in output
    assert not (machines.bot_file.parent / "made-here").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all private memory on Linux only")
async def test_memory_is_limited(machines):
    eat = "b = bytearray(400 * 1024 * 1024); print('ate it all')"
    provider = machines.provider(f'exec {json.dumps(sys.executable)} -S -c "{eat}"')
    await provider.create(machines.spec(memory_mb=256))
    assert "MemoryError" in (await until_gone(provider)).output
    await provider.create(machines.spec("m-2", memory_mb=1024))
    assert "ate it all" in (await until_gone(provider, "m-2")).output


async def test_a_machine_of_the_same_id_of_another_deployment_is_let_alone(machines, tmp_path):
    provider = machines.provider(SLEEP)
    await provider.create(machines.spec())
    await until_printed(machines, "up")
    other = tmp_path / "other"
    other.mkdir()
    others = _Machines(other)
    try:
        theirs = others.provider(SLEEP)
        await theirs.create(others.spec())
        await until_printed(others, "up")
        await theirs.stop("m-1", LONG_GRACE)
        await until_gone(theirs)
    finally:
        others.kill_all()
    status = await provider.get("m-1")
    assert status is not None
    assert status.state is MachineState.started
    assert [bot for bot in machines.processes() if "sleep" in words_of(bot)]


async def test_a_missing_bot_file_is_refused_and_leaves_nothing(machines):
    provider = machines.provider()
    with pytest.raises(Rejected, match=r"nowhere\.py does not exist"):
        await provider.create(machines.spec(bot_file=str(machines.root / "nowhere.py")))
    assert await provider.get("m-1") is None


async def test_a_missing_interpreter_is_an_exit_status_that_says_so(machines):
    provider = ProcessProvider(machines.root, python="/nowhere/python")
    await provider.create(machines.spec())
    status = await until_gone(provider)
    assert status.exit_code == 127
    assert "/nowhere/python" in status.output


async def test_old_directories_go_and_running_machines_stay(machines):
    provider = machines.provider("echo up; exec sleep 3600", keep=2)
    await provider.create(machines.spec("m-live"))
    await until_printed(machines, "up", "m-live")
    machines.provider("exit 0")
    for number in range(5):
        await provider.create(machines.spec(f"m-{number}"))
        await until_gone(provider, f"m-{number}")
    left = {entry.name for entry in machines.root.glob("m-*")}
    assert left == {"m-live", "m-2", "m-3", "m-4"}


@pytest.mark.parametrize("dispatchers_clock", [-7200.0, 7200.0])
async def test_a_directory_in_which_no_machine_ran_goes_by_the_files_clock(machines, dispatchers_clock):
    """A create that is under way has one as well, perhaps another dispatcher's."""

    clock = ManualClock()
    clock.advance(time.time() + dispatchers_clock - clock.now())
    provider = machines.provider("exit 0", keep=0, clock=clock)
    for name, age in (("m-crashed", 2 * NEVER_RAN_SECONDS), ("m-under-way", 0)):
        (machines.root / name).mkdir(parents=True)
        changed_at = time.time() - age
        os.utime(machines.root / name, (changed_at, changed_at))
    await provider.create(machines.spec())
    await until_gone(provider)
    left = {entry.name for entry in machines.root.glob("m-*")}
    assert left == {"m-under-way", "m-1"}


FLOOD = "echo first words; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last words"


async def test_a_bot_that_prints_without_end_fills_no_disk(machines):
    provider = machines.provider(f"{FLOOD}; exit 3")
    await provider.create(machines.spec())
    status = await until_gone(provider)
    assert status.exit_code == 3
    assert status.output.endswith("last words")
    files = sorted((machines.root / "m-1").glob("output*.log"))
    assert [file.name for file in files] == ["output.1.log", "output.head.log", "output.log"]
    assert sum(file.stat().st_size for file in files) < 3.1 * 2**20
    assert files[1].read_text().startswith("first words\n")
    assert files[2].read_text().startswith("[switchboard: ")


async def test_what_a_bot_left_running_keeps_no_machine_although_it_holds_the_pipe(machines):
    provider = machines.provider("sleep 3600 & echo over; exit 0")
    await provider.create(machines.spec())
    status = await until_gone(provider)
    assert (status.exit_code, status.output) == (0, "over")


CREATES = """
import asyncio, json, sys
from datetime import timedelta
from pathlib import Path
from dispatcher.machines.process.provider import ProcessProvider
from dispatcher.machines.provider import MachineSpec

root, bot_file, machine_id = sys.argv[1:]
spec = MachineSpec(
    id=machine_id, bot_file=bot_file, arguments=(), environment={}, cpu=1.0, memory_mb=512,
    max_duration=timedelta(hours=1),
)
asyncio.run(ProcessProvider(Path(root), templates=False).create(spec))
"""


async def test_a_machine_runs_the_runtime_of_the_checkout_that_starts_it(machines, tmp_path):
    checkouts = [tmp_path / "one", tmp_path / "two"]
    for checkout in checkouts:
        left_out = shutil.ignore_patterns("node_modules", "__pycache__", "web")
        shutil.copytree(CHECKOUT / "dispatcher", checkout / "dispatcher", ignore=left_out)
        shutil.copytree(CHECKOUT / "bot", checkout / "bot", ignore=left_out)
        (checkout / "bot" / "__main__.py").write_text(
            "import importlib, time\n"
            "print('of', __file__, flush=True)\n"
            "while not __import__('os').path.exists('go'): time.sleep(0.01)\n"
            "print('later', importlib.import_module('bot.late').__file__, flush=True)\n"
        )
        (checkout / "bot" / "late.py").write_text("")

    for number, checkout in enumerate([*checkouts, checkouts[0]]):
        creating = [sys.executable, "-c", CREATES, str(machines.root), str(machines.bot_file)]
        subprocess.run([*creating, f"m-{number}"], check=True, cwd=checkout, timeout=PATIENCE)
        await until_printed(machines, "of ", f"m-{number}")
    for number, checkout in enumerate([*checkouts, checkouts[0]]):
        (machines.root / f"m-{number}" / "work" / "go").touch()
        await until_printed(machines, "later ", f"m-{number}")
        said = [line.split() for line in machines.output(f"m-{number}").splitlines()]
        assert [Path(file).resolve() for _, file in said] == [
            checkout / "bot" / "__main__.py",
            checkout / "bot" / "late.py",
        ]


@pytest.mark.parametrize(
    "forks", [False, pytest.param(True, marks=pytest.mark.skipif(not SUPPORTED, reason="Linux"))]
)
async def test_what_is_personal_is_on_no_command_line_and_reaches_the_bot(tmp_path, forks):
    # Other runs' machines may go on beside this one's.
    session_id = f"s-{secrets.token_hex(8)}"
    bot_file = tmp_path / "bot.py"
    bot_file.write_text(
        "import json\n"
        "async def bot(runner_args):\n"
        "    print('told', json.dumps(runner_args.body), flush=True)\n"
        "    await __import__('asyncio').Event().wait()\n"
    )
    session = Assignment(
        session_id=session_id,
        agent="echo",
        transport="webrtc",
        body={"patient": "Ada Lovelace"},
        ice_servers=(IceServer(urls=("turn:host",), username="u", credential="hunter2"),),
        token="room-token",
        max_duration_seconds=3600,
    )
    spec = MachineSpec(
        id="m-1",
        bot_file=str(bot_file),
        arguments=tuple(entrypoint_arguments("m-1", "http://127.0.0.1:9", session)),
        environment={MACHINE_TOKEN_VARIABLE: "token"},
        cpu=1.0,
        memory_mb=1024,
        max_duration=timedelta(hours=1),
    )
    root = tmp_path / "machines"

    def shown() -> list[str]:
        """The command lines of the machine's processes."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if str(root) in words or f"--session-id {session_id}" in words:
                    found.append(words)
        return found

    provider = ProcessProvider(root, templates=forks)
    try:
        if forks:
            await provider.prepare([Preparation(str(bot_file), {})])
            template = next(iter(provider._templates.values()))
            async with asyncio.timeout(PATIENCE):
                while not template.ready:
                    await asyncio.sleep(0.05)
        await provider.create(spec)
        async with asyncio.timeout(PATIENCE):
            while not any(f"--session-id {session_id}" in words for words in shown()):
                await asyncio.sleep(0.05)
        assert not [
            words for words in shown() if "Ada" in words or "hunter2" in words or "room-token" in words
        ]
    finally:
        await provider.stop("m-1", NO_GRACE)
        await provider.close()
    assert parse([*in_private(spec).arguments, *pop_private(dict(in_private(spec).environment))]) == parse(
        spec.arguments
    )
