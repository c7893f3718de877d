"""Pipecat Cloud's command line, as it comes from PyPI, with `PIPECAT_API_HOST` naming a dispatcher."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bot import protocol
from dispatcher.api.organizations import REASONS
from dispatcher.machines.provider import LogPart, Rejected
from dispatcher.settings import AgentSettings
from tests.dispatcher.api.test_auth import SECRETS, bearer, keyed, start
from tests.dispatcher.api.test_logs import Logged
from tests.dispatcher.harness import Deployment, deployment

PIPECAT = Path(sys.executable).parent / "pipecat"
SERVICES = "/v1/organizations/switchboard/services"


@dataclass(frozen=True)
class Done:
    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.output + self.errors
        return json.loads(self.output)


async def pipecat(
    running: Deployment, directory: Path, *arguments: str, mode: str = "json", token: str = "any"
) -> Done:
    """Return the answer of `pipecat cloud …`, told of nothing but the dispatcher and a key."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PIPECAT_CONFIG_PATH": str(directory / "pipecatcloud.toml"),
        "PIPECAT_API_HOST": running.url,
        "PIPECAT_TOKEN": token,
        "PIPECAT_OUTPUT": mode,
        "COLUMNS": "250",
    }
    process = await asyncio.create_subprocess_exec(
        *(str(PIPECAT), "cloud", *arguments),
        cwd=directory,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, output.decode(), errors.decode())


async def completed(running: Deployment) -> str:
    """A session whose bot has said goodbye."""
    session_id, machine = await running.reported("ready")
    await machine.send(protocol.Ended(reason="completed", message="The bot said goodbye."))
    await running.until(session_id, "ended")
    return session_id


@pytest.mark.parametrize("mode", ["rich", "plain"])
async def test_the_command_line_shows_agents_and_sessions(tmp_path, mode):
    agents = {"echo": AgentSettings(bot=Path("bot.py"), max_sessions=7, max_duration_seconds=900)}
    async with deployment(tmp_path, agents=agents) as running:
        over = await completed(running)
        live, _ = await running.reported("waiting")

        async def shown(*arguments: str) -> str:
            done = await pipecat(running, tmp_path, *arguments, mode=mode)
            assert done.code == 0, done.output + done.errors
            return done.output + done.errors

        listed, status, sessions, one, ended, logs = await asyncio.gather(
            shown("agent", "list"),
            shown("agent", "status", "echo"),
            shown("agent", "sessions", "echo"),
            shown("agent", "sessions", "echo", "--id", over),
            shown("agent", "sessions", "echo", "--end-state", "completed"),
            shown("agent", "logs", "echo"),
        )
        assert "echo" in listed
        for words in ("bot.py", "900s", "7", "1024Mi"):
            assert words in status
        assert over in sessions
        assert live in sessions
        assert over in one
        assert over in ended
        assert live not in ended
        assert f"{over} ended: The bot said goodbye." in logs


async def test_the_command_line_reads_and_stops_with_a_key(tmp_path):
    async with keyed(tmp_path) as running:
        session_id = (await start(running, "backend"))["sessionId"]

        def ask(*arguments: str, token: str):
            return pipecat(running, tmp_path, *arguments, token=SECRETS.get(token, token))

        organizations, agents, status, stopping, unknown, stranger = await asyncio.gather(
            ask("organizations", "list", token="reader"),
            ask("agent", "list", token="reader"),
            ask("agent", "status", "echo", token="reader"),
            ask("agent", "stop", "echo", "--session-id", session_id, "--force", token="reader"),
            ask("agent", "status", "nope", token="reader"),
            ask("agent", "list", token="nobody"),
        )
        assert organizations.json["organizations"][0]["name"] == "switchboard"
        assert [one["name"] for one in agents.json["agents"]] == ["echo", "other"]
        assert status.json["activeSessionCount"] == 1
        assert (stopping.code, unknown.code, stranger.code) == (1, 1, 1)
        assert (await running.http.get(f"/sessions/{session_id}", headers=bearer("root"))).json()[
            "state"
        ] == "starting"
        stopped = await ask("agent", "stop", "echo", "--session-id", session_id, "--force", token="root")
        assert stopped.code == 0, stopped.output + stopped.errors
        record = await ask("agent", "sessions", "echo", "--id", session_id, token="root")
        assert record.json["endState"] == "terminated"


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [
        ("page", "", 403),
        ("backend", "/echo", 403),
        ("backend", "/echo/logs", 403),
        ("reader", "", 200),
        ("reader", "/echo", 200),
        ("reader", "/nope", 404),
        ("reader", "/nope/sessions", 404),
        ("reader", "/nope/logs", 404),
        ("reader", "/echo/sessions/nope", 404),
        ("reader", "/echo/logs?sessionId=nope", 404),
        ("reader", "/echo/logs?limit=1001", 400),
        ("reader", "/echo/sessions?endState=asleep", 400),
    ],
)
async def test_organizations_are_for_those_who_may_list(tmp_path, who, path, status):
    async with keyed(tmp_path) as running:
        answer = await running.http.get(f"{SERVICES}{path}", headers=bearer(who))
        assert answer.status_code == status, answer.text


async def test_agents_are_filtered_by_their_placement(tmp_path):
    async with deployment(tmp_path) as running:
        for region, names in (("process", ["echo"]), ("us-west", [])):
            answer = await running.http.get(SERVICES, params={"region": region})
            assert [one["name"] for one in answer.json()["services"]] == names


async def test_sessions_are_filtered_by_how_they_ended(tmp_path):
    async with deployment(tmp_path) as running:
        expected = {"completed": await completed(running)}
        expected["terminated"] = (await running.start())["sessionId"]
        await running.http.delete(f"/sessions/{expected['terminated']}")
        expected["agent_error"], machine = await running.reported("loading")
        await machine.send(protocol.Ended(reason="invalid_bot", message="No bot.", exit_code=1))
        await running.until(expected["agent_error"], "failed")
        expected["active"] = (await running.start())["sessionId"]
        for state in (*REASONS, "active", "unknown"):
            answer = await running.http.get(f"{SERVICES}/echo/sessions", params={"endState": state})
            found = [(one["sessionId"], one["endState"]) for one in answer.json()["sessions"]]
            assert found == ([(expected[state], state)] if state in expected else [])
            assert answer.json()["total_count"] == len(found)


async def test_logs_are_the_timelines_of_sessions(tmp_path):
    async with deployment(tmp_path) as running:
        over, other = await completed(running), (await running.start())["sessionId"]
        lines = (await running.http.get(f"{SERVICES}/echo/logs")).json()["logs"]
        assert {over, other} == {line["log"].split()[1] for line in lines}
        assert lines == sorted(lines, key=lambda line: line["timestamp"])
        of_one = await running.http.get(f"{SERVICES}/echo/logs", params={"sessionId": over, "limit": 2})
        last, printed = (line["log"] for line in of_one.json()["logs"])
        assert last.split()[1] == over
        assert printed.startswith(f"ERROR The log of machine m-{over} cannot be read here")
        of_none = await running.http.get(f"{SERVICES}/echo/logs", params={"deploymentId": "another"})
        assert of_none.json() == {"logs": []}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            LogPart(("2026-01-01 00:00:00.000 INFO hello", "world"), 1),
            ["2026-01-01 00:00:00.000 INFO hello", "world"],
        ),
        (None, []),
        (Rejected("kept by Fly"), ["cannot be read here: kept by Fly"]),
    ],
)
async def test_the_command_line_shows_what_a_sessions_bot_printed(tmp_path, said, shown):
    provider = Logged()
    provider.said = said
    async with deployment(tmp_path, provider=provider) as running:
        over = await completed(running)
        logs = await pipecat(running, tmp_path, "agent", "logs", "echo", "--session-id", over)
        lines = [line["log"] for line in logs.json["logs"]]
        assert f"INFO {over} ended: The bot said goodbye." in lines
        printed = [line for line in lines if not line.startswith(f"INFO {over} ")]
        assert len(printed) == len(shown)
        assert all(line.endswith(words) for line, words in zip(printed, shown, strict=True))
        command = ("agent", "logs", "echo", "--limit", "1", "--session-id", over)
        last = await pipecat(running, tmp_path, *command)
        assert len(last.json["logs"]) == 1
