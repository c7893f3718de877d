"""A real dispatcher whose disk is full."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dispatcher.disk import LEAST_FREE_BYTES
from dispatcher.machines import templates
from tests.e2e.browser import until
from tests.e2e.dispatcher import BOTS, NO_TLS, Dispatcher, agent
from tests.small_disk import free, small_disk

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
            return httpx.request(method, f"{dispatcher.url}{path}", json={}, timeout=30, verify=NO_TLS)

        dispatcher.start()
        try:
            if forks:
                dispatcher.wait_for_templates()
            assert ballast.stat().st_blocks * 512 >= ballast.stat().st_size > 0
            session_id = ask("POST", "/start?wait=started").raise_for_status().json()["sessionId"]
            # It takes what is kept back as well: the dispatcher writes every few seconds.
            until(lambda: not ballast.exists() and not free(disk), 60, "a disk that is full")
            refused = [ask("POST", "/start") for _ in range(50)]
            assert {(one.status_code, one.json()["code"]) for one in refused} == {(503, "disk_full")}
            assert "Retry-After" in refused[0].headers
            assert ask("GET", "/healthz").status_code == 200
            assert ask("DELETE", f"/sessions/{session_id}").json()["status"] == "terminated"
            dispatcher.wait_until_no_machine(30)
            over = dispatcher.wait_until_over(session_id)
            assert over["state"] == "ended"
            until(lambda: free(disk) >= LEAST_FREE_BYTES, 30, "room on the disk")
            assert (disk / "machines" / f"m-{session_id}" / "output.log").exists()
            until(lambda: ask("GET", "/readyz").status_code == 200, 30, "a dispatcher that takes starts")
            until(ballast.exists, 30, "room that is kept back again")
            lines = dispatcher.log.read_text().splitlines()
            assert len([line for line in lines if " ERROR " in line]) <= 6, lines
            assert not [line for line in lines if "Traceback" in line]
        finally:
            dispatcher.stop()
        assert not ballast.exists()
