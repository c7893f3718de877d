"""A real dispatcher whose disk is full."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from dispatcher.disk import LEAST_FREE_BYTES
from dispatcher.machines.process import templates
from tests.dispatcher.command import Command
from tests.e2e.browser import until
from tests.e2e.dispatcher import BOTS, NO_TLS, Dispatcher, agent
from tests.patience import PATIENCE
from tests.small_disk import fill, free, small_disk

MEGABYTES = 100
FORKED = pytest.param(
    True, marks=pytest.mark.skipif(not templates.SUPPORTED, reason="machines are forked on Linux alone")
)


@pytest.mark.parametrize("forks", [FORKED, False])
def test_a_full_disk_refuses_starts_and_ends_the_bot_that_filled_it(tmp_path: Path, forks: bool) -> None:
    bot = agent(BOTS / "fills_the_disk.py", startTimeoutSeconds=600)
    with small_disk(tmp_path / "data", MEGABYTES) as disk:
        dispatcher = Dispatcher(tmp_path, {"greedy": bot}, forks=forks)
        ballast = disk / "switchboard.sqlite.ballast"

        def ask(method: str, path: str) -> httpx.Response:
            return httpx.request(method, f"{dispatcher.url}{path}", json={}, timeout=PATIENCE, verify=NO_TLS)

        dispatcher.start()
        try:
            if forks:
                dispatcher.wait_for_templates()
            assert ballast.stat().st_blocks * 512 >= ballast.stat().st_size > 0
            session_id = ask("POST", "/start?wait=started").raise_for_status().json()["sessionId"]
            # It takes what is kept back as well: the dispatcher writes every few seconds.
            until(lambda: not ballast.exists() and not free(disk), PATIENCE, "a disk that is full")
            # Starts look at the disk once a second; one that comes before finds that no process can be made.
            until(
                lambda: ask("POST", "/start").json()["code"] == "disk_full",
                PATIENCE,
                "a look at the disk",
            )
            refused = [ask("POST", "/start") for _ in range(50)]
            assert {(one.status_code, one.json()["code"]) for one in refused} == {(503, "disk_full")}
            assert "Retry-After" in refused[0].headers
            assert ask("GET", "/healthz").status_code == 200
            assert ask("DELETE", f"/sessions/{session_id}").json()["status"] == "terminated"
            dispatcher.wait_until_no_machine(30)
            over = dispatcher.wait_until_over(session_id)
            assert over["state"] == "ended"
            until(lambda: free(disk) >= LEAST_FREE_BYTES, PATIENCE, "room on the disk")
            assert (disk / "machines" / f"m-{session_id}" / "output.log").exists()
            until(lambda: ask("GET", "/readyz").status_code == 200, PATIENCE, "a ready dispatcher")
            until(ballast.exists, PATIENCE, "room that is kept back again")
            lines = dispatcher.log.read_text().splitlines()
            assert len([line for line in lines if " ERROR " in line]) <= 6, lines
            assert not [line for line in lines if "Traceback" in line]
        finally:
            dispatcher.stop()
        assert not ballast.exists()


FULL, READ_ONLY = "free some of the disk", "mount it to be written"


def spoil(disk: Path, words: str) -> None:
    if words == FULL:
        (disk / "switchboard.sqlite.ballast").unlink(missing_ok=True)
        fill(disk)
    else:
        # The system refuses for as long as a file there is open to be written.
        until(lambda: _run("mount", "-o", "remount,ro", str(disk)) == 0, PATIENCE, "a read-only disk")


def _run(*command: str) -> int:
    return subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode


@pytest.fixture
def command(tmp_path: Path):
    made = Command(tmp_path)
    yield made
    made.http.close()


@pytest.mark.parametrize("words", [FULL, READ_ONLY])
@pytest.mark.parametrize("before", ["never ran", "was killed"])
def test_a_disk_that_cannot_be_written_at_start_is_one_line(tmp_path, command, before, words) -> None:
    with small_disk(tmp_path / "data", MEGABYTES) as disk:
        session_id = kill_one(command) if before == "was killed" else None
        if session_id is not None and words == READ_ONLY:
            end_machines(session_id)
        spoil(disk, words)
        status, said = command.here()
        assert status == 2
        last = said.splitlines()[-1]
        assert last.startswith("dispatcher: data_dir: ")
        assert words in last
        assert "Traceback" not in said
        if session_id is not None:
            command.here("stop-machines")


def test_a_dispatcher_that_was_killed_starts_on_a_full_disk_and_ends_its_sessions(tmp_path, command) -> None:
    with small_disk(tmp_path / "data", MEGABYTES) as disk:
        session_id = kill_one(command)
        fill(disk)
        assert (disk / "switchboard.sqlite.ballast").exists()
        served = command.begin()
        try:
            until(lambda: answers(command, "/healthz"), PATIENCE, "a dispatcher that answers")
            assert command.http.post("/start").json()["code"] == "disk_full"
            assert command.http.delete(f"/sessions/{session_id}").json()["status"] == "terminated"
            until(lambda: not machines(session_id), PATIENCE, "the end of the machine")
        finally:
            served.terminate()
            assert served.wait(PATIENCE) == 0


@pytest.mark.parametrize("wrong", ["corrupt", "full"])
def test_stop_machines_ends_the_machines_of_a_store_that_cannot_be_used(tmp_path, command, wrong) -> None:
    with small_disk(tmp_path / "data", MEGABYTES) as disk:
        session_id = kill_one(command)
        assert machines(session_id)
        if wrong == "corrupt":
            for file in disk.glob("switchboard.sqlite*"):
                file.unlink()
            (disk / "switchboard.sqlite").write_text("what somebody put there" * 100)
        else:
            spoil(disk, FULL)
        status, said = command.here("stop-machines")
        assert status == 2
        last = said.splitlines()[-1]
        assert last.startswith("dispatcher: data_dir: the store cannot be used: ")
        assert f"m-{session_id}" in last
        assert not machines(session_id)


def kill_one(command: Command) -> str:
    """Kill a dispatcher whose one session goes on; return the session's id."""
    ballast = Path(command.environment["SWITCHBOARD_DATA_DIR"]) / "switchboard.sqlite.ballast"
    process = command.begin()
    try:
        command.until_ready(process)
        until(ballast.exists, PATIENCE, "room that is kept back")
        return command.http.post("/start?wait=started").json()["sessionId"]
    finally:
        process.kill()
        process.wait()


def end_machines(session_id: str) -> None:
    def kill() -> bool:
        for process in (found := machines(session_id)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not found

    until(kill, PATIENCE, "the end of the machine")


def answers(command: Command, path: str) -> bool:
    try:
        return command.http.get(path).status_code == 200
    except httpx.TransportError:
        return False


def machines(session_id: str) -> list[psutil.Process]:
    """The processes that bear the name of the session's machine."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        named = f"m-{session_id}" in " ".join(process.info["cmdline"] or [])
        if named and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
