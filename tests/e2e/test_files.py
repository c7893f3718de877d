"""A client's uploads, from the start's answer to the end of the session, through real processes."""

from __future__ import annotations

from pathlib import Path

import httpx

from .conftest import StartDispatcher
from .dispatcher import agent

BOT = Path(__file__).parent.parent / "bot" / "bots" / "reads_files.py"


def test_an_upload_reaches_the_bot_and_is_gone_with_its_session(start_dispatcher: StartDispatcher) -> None:
    dispatcher = start_dispatcher(reads=agent(BOT))
    picture = bytes(range(256)) * 6_000
    with httpx.Client(base_url=dispatcher.url, trust_env=False, timeout=60) as http:
        started = http.post("/start", json={"transport": "webrtc"}).json()
        answer = http.post(started["fileUploadUrl"], files={"file": ("cat.png", picture)})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["name"], answer.json()["format"]) == ("cat.png", "image/png")
        assert contents(dispatcher.directory).count(picture) == 1
        http.delete(f"/sessions/{started['sessionId']}")
        dispatcher.wait_until_over(started["sessionId"])
        dispatcher.wait_until_no_machine()
        assert picture not in contents(dispatcher.directory)
        assert http.post(started["fileUploadUrl"], files={"file": picture}).status_code == 410


def contents(directory: Path) -> list[bytes]:
    """Return the contents of all files of that size."""
    return [
        file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and file.stat().st_size == 1_536_000
    ]
