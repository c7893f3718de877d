"""A client's uploads, from the start's answer to the end of the session, through real processes."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.patience import PATIENCE

from .conftest import StartDispatcher
from .dispatcher import agent

BOT = Path(__file__).parent.parent / "bot" / "bots" / "reads_files.py"


def test_an_upload_reaches_the_bot_and_is_gone_with_its_session(start_dispatcher: StartDispatcher) -> None:
    dispatcher = start_dispatcher(reads=agent(BOT))
    picture = bytes(range(256)) * 6_000
    with httpx.Client(base_url=dispatcher.url, trust_env=False, timeout=PATIENCE) as http:
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


def test_files_of_many_megabytes_reach_the_bot_and_its_client(start_dispatcher: StartDispatcher) -> None:
    """Up, to the development runner's limit, and down, beyond what one message takes."""
    dispatcher = start_dispatcher(returns=agent(BOT.with_name("returns_files.py")))
    limit = 50 * 1024 * 1024
    film = bytes(range(256)) * (limit // 256)
    with httpx.Client(base_url=dispatcher.url, trust_env=False, timeout=PATIENCE) as http:
        started = http.post("/start", json={"transport": "webrtc"}).json()
        url = started["fileUploadUrl"]
        answer = http.post(url, files={"file": ("film.mp4", film)})
        assert answer.status_code == 200, answer.text
        assert answer.json()["format"] == "video/mp4"
        got = http.get(f"{url}/film.mp4")
        assert (got.status_code, got.headers["content-length"]) == (200, str(limit))
        assert got.content == film
        assert http.head(f"{url}/film.mp4").headers["content-length"] == str(limit)
        answer = http.post(url, files={"file": ("film.mp4", film + b"x")})
        assert (answer.status_code, answer.json()["code"]) == (413, "file-too-large")
        assert "52428800 bytes" in answer.json()["detail"]
        http.delete(f"/sessions/{started['sessionId']}")
        dispatcher.wait_until_over(started["sessionId"])


def contents(directory: Path) -> list[bytes]:
    """Return the contents of all files of that size."""
    return [
        file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and file.stat().st_size == 1_536_000
    ]
