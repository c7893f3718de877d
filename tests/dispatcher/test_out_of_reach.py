"""A real dispatcher that its machines cannot reach."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.e2e.browser import until
from tests.e2e.dispatcher import BOTS, NO_TLS, Dispatcher, agent
from tests.patience import PATIENCE

NOBODY = "http://127.0.0.1:9"


def test_why_a_machine_never_reported_is_in_its_sessions_detail(tmp_path: Path) -> None:
    bot = agent(BOTS / "parrot.py", startTimeoutSeconds=6)
    dispatcher = Dispatcher(tmp_path, {"parrot": bot}, forks=False, more={"MACHINE_URL": NOBODY})
    dispatcher.start()
    try:
        answer = httpx.post(f"{dispatcher.url}/start", json={}, timeout=PATIENCE, verify=NO_TLS)
        session_id = answer.raise_for_status().json()["sessionId"]
        over = dispatcher.wait_until_over(session_id)
        assert over["reason"] == "start_timeout"
        assert "its machine runs, but never reported" in over["message"]
        until(lambda: dispatcher.session(session_id)["detail"], PATIENCE, "the machine's last words")
        detail = dispatcher.session(session_id)["detail"]
        assert "no connection to ws://127.0.0.1:9/" in detail
    finally:
        dispatcher.stop()
