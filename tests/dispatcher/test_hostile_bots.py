"""A real dispatcher whose bot does harm where it can write, and one that has no file descriptor left."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from dispatcher.commands import DESCRIPTORS
from dispatcher.machines.process import templates
from tests.e2e.browser import until
from tests.e2e.dispatcher import BOTS, NO_TLS, Dispatcher, agent
from tests.patience import PATIENCE
from tests.processes import title_of

FORKED = pytest.param(
    True, marks=pytest.mark.skipif(not templates.SUPPORTED, reason="machines are forked on Linux alone")
)


@pytest.mark.parametrize("forks", [FORKED, False])
def test_a_bot_that_spoils_its_files_is_ended_by_a_dispatcher_that_goes_on(
    tmp_path: Path, forks: bool
) -> None:
    dispatcher = Dispatcher(
        tmp_path,
        {"hostile": agent(BOTS / "spoils_its_files.py", startTimeoutSeconds=600)},
        forks=forks,
        more={"PROCESS_ISOLATION": "off"},  # or it could not
    )

    def healthy() -> bool:
        return httpx.get(f"{dispatcher.url}/healthz", timeout=5, verify=NO_TLS).status_code == 200

    dispatcher.start()
    try:
        if forks:
            dispatcher.wait_for_templates()
        answer = httpx.post(
            f"{dispatcher.url}/start?wait=started",
            json={"transport": "webrtc"},
            timeout=PATIENCE,
            verify=NO_TLS,
        )
        session_id = answer.raise_for_status().json()["sessionId"]
        spoilt = dispatcher.directory / "data" / "machines" / f"m-{session_id}" / "spoilt"
        until(spoilt.exists, PATIENCE, "the bot's harm")
        # The next one finds the machine in its store, and asks the provider about it.
        dispatcher.kill()
        dispatcher.start()
        assert healthy()
        assert dispatcher.session(session_id)["state"] not in ("ended", "failed")
        dispatcher.request("DELETE", f"/sessions/{session_id}")
        dispatcher.wait_until_over(session_id)
        dispatcher.wait_until_no_machine(30)
        assert healthy()
    finally:
        dispatcher.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot be asked for its words")
def test_no_more_machines_run_than_sessions_are_allowed_although_bots_do_not_end(tmp_path: Path) -> None:
    bot = agent(BOTS / "will_not_end.py", startTimeoutSeconds=600, maxSessions=2)
    dispatcher = Dispatcher(tmp_path, {"hangs": bot}, forks=False)
    sessions: list[str] = []

    def start(query: str) -> int:
        url = f"{dispatcher.url}/start?wait=started{query}"
        answer = httpx.post(url, json={}, timeout=PATIENCE, verify=NO_TLS)
        if answer.status_code == 200:
            sessions.append(answer.json()["sessionId"])
        return answer.status_code

    def machines() -> set[str]:
        """The sessions of which a process is there, as the system says."""
        return {one for one in sessions for process in dispatcher.processes() if one in title_of(process)}

    def stands_still() -> bool:
        log = dispatcher.directory / "data" / "machines" / f"m-{sessions[-1]}" / "output.log"
        return log.exists() and "it stays" in log.read_text()

    dispatcher.start()
    try:
        for _ in range(2):
            assert start("") == 200
            until(stands_still, PATIENCE, "a bot that stands still")
        for session_id in sessions:
            dispatcher.request("DELETE", f"/sessions/{session_id}")
            assert dispatcher.wait_until_over(session_id)["reason"] == "stopped"
        assert machines() == set(sessions)
        assert start("") == 429
        assert start("&queue=60") == 200
        assert len(machines()) <= 2
        assert sessions[-1] in machines()
        dispatcher.request("DELETE", f"/sessions/{sessions[-1]}")
        dispatcher.wait_until_no_machine()
    finally:
        dispatcher.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="another process's limits can be set on Linux alone")
def test_a_live_session_outlives_a_dispatcher_that_is_out_of_descriptors(tmp_path: Path) -> None:
    bot = agent(BOTS / "hangs_at_import.py", startTimeoutSeconds=600)
    dispatcher = Dispatcher(tmp_path, {"silent": bot}, forks=False)
    dispatcher.start()
    try:
        answer = httpx.post(
            f"{dispatcher.url}/start?wait=started",
            json={"transport": "webrtc"},
            timeout=PATIENCE,
            verify=NO_TLS,
        )
        session_id = answer.raise_for_status().json()["sessionId"]
        assert dispatcher.process is not None
        process = psutil.Process(dispatcher.process.pid)
        soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
        # What is open stays open; nothing more can be opened.
        process.rlimit(psutil.RLIMIT_NOFILE, (0, hard))
        until(
            lambda: f"m-{session_id} cannot be examined" in dispatcher.log.read_text(),
            60,
            "a probe of the machine",
        )
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
        assert dispatcher.session(session_id)["state"] == "starting"
        assert dispatcher.processes()
    finally:
        dispatcher.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="a process's limits are in /proc on Linux alone")
def test_a_dispatcher_takes_as_many_descriptors_as_it_may_have(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    dispatcher = Dispatcher(tmp_path, {"silent": agent(BOTS / "hangs_at_import.py")}, forks=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        dispatcher.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert dispatcher.process is not None
        limits = Path(f"/proc/{dispatcher.process.pid}/limits").read_text()
        (line,) = [one for one in limits.splitlines() if one.startswith("Max open files")]
        most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        assert int(line.split()[3]) == most
    finally:
        dispatcher.stop()
