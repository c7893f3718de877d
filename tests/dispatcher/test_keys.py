"""Keys and tokens with a real dispatcher: Pipecat Cloud's SDK, and what no log may have."""

from __future__ import annotations

import json
import os
import shlex

import psutil
import pytest
from pipecatcloud.api import _API
from pipecatcloud.exception import AgentStartError
from pipecatcloud.session import Session, SessionParams

from bot.protocol import MACHINE_TOKEN_VARIABLE
from dispatcher import new_key
from dispatcher.keys import NAME_WORDS, hash_of
from tests.dispatcher.command import Command
from tests.processes import words_of

SIGNING_SECRET = "a signing secret that nobody should ever read in a log"


@pytest.fixture
def keyed(tmp_path):
    """A dispatcher that asks for keys and writes down all that it does; with the keys by their scopes."""
    command = Command(tmp_path)
    keys = {scope: f"sk_{scope}-{os.urandom(16).hex()}" for scope in ("start", "admin")}
    command.environment |= {
        "SWITCHBOARD_KEYS": json.dumps(
            [{"name": scope, "hash": hash_of(key), "scope": scope} for scope, key in keys.items()]
        ),
        "SWITCHBOARD_SECRETS": json.dumps([SIGNING_SECRET]),
        "SWITCHBOARD_LOG_LEVEL": "debug",
    }
    yield command, keys
    command.close()


async def test_pipecat_clouds_sdk_starts_lists_and_stops_a_session(keyed, monkeypatch):
    """As its user would: another host and path by its own variables, and the key."""
    command, keys = keyed
    monkeypatch.setenv("PIPECAT_API_HOST", command.url)
    monkeypatch.setenv("PIPECAT_SERVICES_SESSIONS_PATH", "/v1/agents/{service}/sessions")

    with command.serving():
        started = await Session("echo", keys["start"], SessionParams(data={"name": "Ada"})).start()
        api = _API(keys["admin"])
        listed, _ = await api.agent_sessions("echo", "any-organization")
        assert [session["sessionId"] for session in listed["sessions"]] == [started["sessionId"]]
        stopped, _ = await api.agent_session_terminate("echo", started["sessionId"], "any-organization")
        assert stopped == {"status": "terminated", "session_id": started["sessionId"]}
        shown, _ = await api.agent_session("echo", started["sessionId"], "any-organization")
        assert shown["endedAt"]
        with pytest.raises(AgentStartError, match="401 - A valid key"):
            await Session("echo", "sk_wrong").start()
        with pytest.raises(AgentStartError, match="404 - There is no agent"):
            await Session("moon", keys["start"]).start()


def test_no_log_has_a_key_or_a_token(keyed, tmp_path):
    command, keys = keyed
    wrong = f"sk_wrong-{os.urandom(16).hex()}"
    log = tmp_path / "dispatcher.log"
    with log.open("w") as file, command.serving(log=file):
        http = command.http
        start = {"Authorization": f"Bearer {keys['start']}"}
        admin = {"Authorization": f"Bearer {keys['admin']}"}
        started = http.post("/start", headers=start).json()
        session, token = started["sessionId"], started["sessionToken"]
        events = f"/v1/sessions/{session}/events"
        machine = next(
            one.environ()[MACHINE_TOKEN_VARIABLE]
            for one in psutil.process_iter()
            if session in " ".join(words_of(one)) and MACHINE_TOKEN_VARIABLE in _environment(one)
        )
        stream = {"Accept": "text/event-stream"}
        statuses = [
            http.get(f"{events}?after=0&token={token}").status_code,
            http.get(f"{events}?token={wrong}", headers=stream).status_code,
            http.get(f"/sessions/{session}?token={token}").status_code,
            http.get("/v1/sessions", headers={"Authorization": f"Bearer {wrong}"}).status_code,
            http.get("/v1/sessions", headers=start).status_code,
            http.get("/metrics", headers=admin).status_code,
            http.delete(f"/sessions/{session}", headers={"Authorization": f"Bearer {token}"}).status_code,
        ]
        measured = http.get("/metrics", headers=admin).text
        said = http.get(events, headers=admin).text + http.get(f"/sessions/{session}", headers=admin).text
    assert statuses == [200, 401, 401, 401, 403, 200, 200]
    logged = log.read_text()
    assert f"GET {events}?after=0 " in logged, "requests are in the log, without the token"
    for path in (tmp_path / "data" / "machines").rglob("*"):
        if path.is_file():
            logged += path.read_text(errors="replace")
    for secret in (*keys.values(), wrong, token, machine, SIGNING_SECRET):
        for where in (logged, measured, said):
            assert secret not in where
            assert secret.rpartition(".")[2] not in where, "nor a token's signature"


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_new_key_opens_the_dispatcher_that_has_its_entry(tmp_path):
    command = Command(tmp_path)
    made = command.run("new-key", "backend", "--scope", "admin", "--days", "1")
    assert made.returncode == 0, made.stderr
    key, entry = (line.strip() for line in made.stdout.splitlines() if line.startswith("  "))
    assert key not in entry
    command.environment["SWITCHBOARD_KEYS"] = f"[{entry}]"
    with command.serving():
        opened = command.http.get("/v1/agents", headers={"Authorization": f"Bearer {key}"})
        assert opened.status_code == 200
        assert command.http.get("/v1/agents").status_code == 401
    command.close()


@pytest.mark.parametrize(
    ("arguments", "prefix", "members"),
    [
        ("backend", "sk_", {"scope": "start"}),
        (
            "web --origin https://a.example --per-second 2 --burst 5",
            "pk_",
            {"origins": ["https://a.example"], "rate": {"perSecond": 2.0, "burst": 5}},
        ),
        ("ops --scope read --agent echo --agent other", "sk_", {"agents": ["echo", "other"]}),
    ],
)
def test_new_key_prints_a_key_and_its_entry(capsys, arguments, prefix, members):
    assert new_key.command(shlex.split(arguments)) == 0
    key, entry = (line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert key.startswith(prefix)
    found = json.loads(entry)
    assert found["hash"] == hash_of(key)
    assert members.items() <= found.items()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("Web", f"dispatcher: NAME: 'Web' is refused; allowed: {NAME_WORDS}\n"),
        ("web --agent BAD_NAME", f"dispatcher: --agent: 'BAD_NAME' is refused; allowed: {NAME_WORDS}\n"),
        (f"{'x' * 64}", f"dispatcher: NAME: '{'x' * 58}… is refused; allowed: {NAME_WORDS}\n"),
        ("web --origin https://a.example/", "dispatcher: --origin: 'https://a.example/' is not a browser's"),
        (
            "web --origin https://a.example --scope admin",
            "dispatcher: key 'web': everybody can read a key with origins",
        ),
        ("web --per-second 0", "dispatcher: --per-second: 0.0 is refused; allowed: greater than 0\n"),
        ("web --per-second 1 --burst 0", "dispatcher: --burst: 0 is refused; allowed: greater than or equal"),
    ],
)
def test_new_key_refuses_what_no_entry_may_be(capsys, arguments, words):
    assert new_key.command(shlex.split(arguments)) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_new_key_refuses_a_burst_that_would_not_count(capsys):
    with pytest.raises(SystemExit) as ended:
        new_key.command(["web", "--burst", "5"])
    assert ended.value.code == 2
    assert "--burst: 5 is refused; allowed: with --per-second only" in capsys.readouterr().err
