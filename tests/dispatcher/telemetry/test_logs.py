"""Log lines, as somebody reads them and as a collector does."""

import asyncio
import contextlib
import io
import json
import logging
import re
import stat
import subprocess
import sys

import httpx
import pytest

from bot import protocol
from dispatcher.keys import hash_of
from dispatcher.log_context import about, current
from dispatcher.settings import LogFormat, LogLevel, Settings
from dispatcher.telemetry import logs
from tests.dispatcher.harness import ScriptedProvider, deployment
from tests.patience import PATIENCE

CLICK = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = CLICK.split("-")[1]
KEY = {"name": "any", "hash": hash_of("sk_any"), "scope": "admin"}
log = logging.getLogger("dispatcher.test")

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtLTEifQ.c2lnbmF0dXJl"


@contextlib.contextmanager
def captured(form: LogFormat, level: LogLevel = "info"):
    """All lines that the process writes, as `python -m dispatcher` would set them up."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers = []
    stream = io.StringIO()
    logs.configure(level, form, stream)
    try:
        yield stream
    finally:
        root.handlers, root.level = before


def objects(stream) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def conversation(tmp_path, provider=None) -> str:
    """A whole session with a trace, from its start to its end; gives its id."""

    async def run() -> str:
        async with deployment(tmp_path, provider=provider) as running:
            answer = await running.http.post("/start", headers={"traceparent": CLICK})
            session_id = answer.json()["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("waiting")
            await machine.send(protocol.Ready(timings=protocol.Timings()))
            await running.until(session_id, "ready")
            assert (await running.http.delete(f"/sessions/{session_id}")).status_code == 200
            await running.until(session_id, "ended")
            return session_id

    return asyncio.run(run())


def test_every_line_about_a_session_carries_its_ids_in_json(tmp_path):
    with captured("json") as stream:
        session_id = conversation(tmp_path)
    lines = [line for line in objects(stream) if line["logger"].startswith("dispatcher.")]
    about_it = [line for line in lines if session_id in line["message"]]
    moves = [line["message"].split(": ")[1] for line in about_it]
    assert moves[0].startswith("starting, for machine")
    assert moves[1:] == ["starting → ready", "ready → ended"]
    for line in about_it:
        assert line["session_id"] == session_id, line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["replica"] == logs.replica()
        assert (line["machine_id"], line["trace_id"]) == (f"m-{session_id}", TRACE_ID), line


def test_every_line_about_a_session_carries_its_ids_in_text(tmp_path):
    with captured("text") as stream:
        session_id = conversation(tmp_path)
    (ready,) = [line for line in stream.getvalue().splitlines() if "starting → ready" in line]
    assert session_id in ready
    assert ready.endswith(f"starting → ready [machine=m-{session_id} trace={TRACE_ID}]")


async def test_a_traceback_stays_on_its_line_in_json_and_deep_code_knows_its_session(tmp_path):
    provider = ScriptedProvider()
    provider.fault = ValueError("a fault of the adapter")

    with captured("json") as stream:
        async with deployment(tmp_path, provider=provider) as running:
            session_id = (await running.http.post("/start?wait=none")).json()["sessionId"]
            await running.until(session_id, "failed")
    (line,) = [line for line in objects(stream) if "raised an exception" in line["message"]]
    assert session_id not in line["message"], "the placement does not know for whom it asks"
    assert (line["session_id"], line["machine_id"]) == (session_id, f"m-{session_id}")
    assert line["level"] == "ERROR"
    assert line["error"].startswith("Traceback")
    assert line["error"].endswith("ValueError: a fault of the adapter")


def test_lines_of_other_libraries_and_of_the_server_are_json_too():
    with captured("json") as stream:
        logging.getLogger("uvicorn.error").info("Started server process [%d]", 1)
        logging.getLogger("uvicorn.access").info(
            '%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/a", "1.1", 200
        )
        logging.getLogger("elsewhere").warning('a "quoted"\nline')
    assert [(line["logger"], line["message"]) for line in objects(stream)] == [
        ("uvicorn.error", "Started server process [1]"),
        ("uvicorn.access", '1.2.3.4:5 - "GET /a HTTP/1.1" 200'),
        ("elsewhere", 'a "quoted"\nline'),
    ]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    ("said", "secret", "kept"),
    [
        ("Authorization: Bearer sk-very-secret-1", "sk-very-secret-1", "Bearer ***"),
        ("the key sk_0123456789abcdefABCDEF is none", "456789abc", "the key sk_*** is none"),
        (f"the token {JWT} is old", JWT.split(".")[2], "the token *** is old"),
        ("GET /x?after=1&token=abc123&wait=2", "abc123", "after=1&token=***&wait=2"),
        ("postgresql+psycopg://sb:hunter2@db/x is down", "hunter2", "postgresql+psycopg://sb:***@db/x"),
    ],
)
def test_what_looks_like_a_secret_is_masked(form, said, secret, kept):
    with captured(form) as stream:
        log.warning("it says: %s", said)
        try:
            raise RuntimeError(said)
        except RuntimeError:
            log.exception("and it raised")
    assert secret not in stream.getvalue()
    assert stream.getvalue().count(kept) == 2


def test_what_is_no_secret_is_not_masked():
    text = "session 5f0c: http://127.0.0.1:7860/sessions/5f0c?after=1, bot.py:12: key=value"
    assert logs.masked(text) == text


def test_at_debug_no_header_of_a_channel_is_logged(tmp_path):
    with captured("json", "debug") as stream:
        conversation(tmp_path)
    assert "eyJ" not in stream.getvalue()
    assert not [
        line
        for line in objects(stream)
        if line["logger"].startswith(("uvicorn.error", "websockets.server")) and line["level"] == "DEBUG"
    ]


@pytest.mark.parametrize(("level", "lines"), [("info", 0), ("debug", 1)])
def test_calls_to_a_machines_api_are_logged_at_debug_alone(level, lines):
    answers = httpx.MockTransport(lambda _request: httpx.Response(200))
    with captured("text", level) as stream, httpx.Client(transport=answers) as client:
        client.get("http://fly.test/v1/apps")
    assert stream.getvalue().count("HTTP Request: GET http://fly.test/v1/apps") == lines


async def test_ids_are_inherited_by_tasks_and_end_with_their_block():
    async def seen() -> str | None:
        await asyncio.sleep(0)
        return current().session_id

    with about(session_id="s-1"):
        inside = asyncio.create_task(seen())
        with about(machine_id="m-1"):
            assert (current().session_id, current().machine_id) == ("s-1", "m-1")
        assert current().machine_id is None
    assert current().session_id is None
    assert await inside == "s-1"


KEY = {"name": "backend", "hash": f"sha256:{'0' * 64}", "scope": "start"}


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, "text"),
        ({"host": "::1"}, "text"),
        ({"host": "0.0.0.0", "keys": [KEY]}, "json"),
        ({"log_format": "json"}, "json"),
        ({"host": "0.0.0.0", "keys": [KEY], "log_format": "text"}, "text"),
    ],
)
def test_lines_are_text_where_a_person_reads_them(given, lines):
    assert Settings.model_validate({"agents": {"echo": {"bot": "b.py"}}, **given}).log_lines == lines


FLOOD = """
import logging, os, sys
from pathlib import Path
from dispatcher.telemetry import logs

logs.configure("info", "text", file=Path(sys.argv[1]))
for number in range(40_000):
    logging.info("%06d %s", number, "x" * 1000)
os.write(1, b"printed by a library")
"""


def test_a_log_file_is_bounded_and_has_what_libraries_print(tmp_path):
    file = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", FLOOD, str(file)], capture_output=True, timeout=PATIENCE, check=True
    )
    assert done.stdout + done.stderr == b""
    kept = sorted(tmp_path.iterdir())
    assert [one.name for one in kept] == ["log", "log.1", "log.2"]
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in kept)
    assert all(one.stat().st_size <= logs.FILE_BYTES + 2048 for one in kept)
    text = file.read_text()
    assert "039999 x" in text
    assert text.endswith("printed by a library")


FORGED = "over\n2026-11-21 10:54:38,123 ERROR root: forged\r\x1b[31mred\x9b2J\u2028\u202eno"


def test_text_lines_are_not_forged_when_a_value_has_line_ends_and_escape_codes():
    with captured("text") as stream:
        log.warning("the bot said: %s", FORGED)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert r"over\n2026-11-21 10:54:38,123 ERROR root: forged\r\x1b[31mred\x9b2J\u2028\u202eno" in line
    assert all(character.isprintable() for character in line)


def test_traceback_forges_no_line_when_its_message_has_lines():
    with captured("text") as stream:
        try:
            raise ValueError(FORGED)
        except ValueError:
            log.exception("the bot's answer")
    first, *more = stream.getvalue().split("\n")[:-1]
    assert "ERROR dispatcher.test: the bot's answer" in first
    assert more
    assert all(line.startswith("  | ") and line.isprintable() for line in more)
