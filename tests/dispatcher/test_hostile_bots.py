"""A real dispatcher whose bot does harm where it can write."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dispatcher.machines import templates
from tests.e2e.browser import until
from tests.e2e.dispatcher import BOTS, NO_TLS, Dispatcher, agent

FORKED = pytest.param(
    True, marks=pytest.mark.skipif(not templates.SUPPORTED, reason="machines are forked on Linux alone")
)


@pytest.mark.parametrize("forks", [FORKED, False])
def test_a_bot_that_spoils_its_files_is_ended_by_a_dispatcher_that_goes_on(
    tmp_path: Path, forks: bool
) -> None:
    dispatcher = Dispatcher(
        tmp_path, {"hostile": agent(BOTS / "spoils_its_files.py", startTimeoutSeconds=600)}, forks=forks
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
            timeout=30,
            verify=NO_TLS,
        )
        session_id = answer.raise_for_status().json()["sessionId"]
        spoilt = dispatcher.directory / "data" / "machines" / f"m-{session_id}" / "spoilt"
        until(spoilt.exists, 30, "the bot's harm")
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
