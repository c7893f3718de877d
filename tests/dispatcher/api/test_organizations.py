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
from tests.dispatcher.api.test_auth import SECRETS, bearer, keyed, keyed_dispatcher, start
from tests.dispatcher.api.test_logs import Logged
from tests.dispatcher.harness import Deployment, deployment

__all__ = ["keyed_dispatcher"]

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


COMMANDS = """
import json, os, sys
from pipecat.cli import main
main.app  # Loads all of it once, which takes longer than any command.

def start(number, arguments):
    if child := os.fork():
        return child
    for descriptor, name in ((0, os.devnull), (1, f"{number}.out"), (2, f"{number}.err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["pipecat", "cloud", *arguments]
    sys.exit(main.run())

children = [start(*one) for one in enumerate(json.loads(sys.argv[1]))]
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""
"""Does what `pipecat` does, for several commands at the same time."""


async def pipecat(
    running: Deployment, directory: Path, *commands: tuple[str, ...], mode: str = "json", token: str = "any"
) -> list[Done]:
    """Return the answers of `pipecat cloud …`, told of nothing but the dispatcher and a key."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMANDS, json.dumps(commands)),
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PIPECAT_CONFIG_PATH": str(directory / "pipecatcloud.toml"),
            "PIPECAT_API_HOST": running.url,
            "PIPECAT_TOKEN": token,
            "PIPECAT_OUTPUT": mode,
            "COLUMNS": "250",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    codes, _ = await process.communicate()
    assert process.returncode == 0
    return [
        Done(code, (directory / f"{number}.out").read_text(), (directory / f"{number}.err").read_text())
        for number, code in enumerate(json.loads(codes))
    ]


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

        commands = (
            ("agent", "list"),
            ("agent", "status", "echo"),
            ("agent", "sessions", "echo"),
            ("agent", "sessions", "echo", "--id", over),
            ("agent", "sessions", "echo", "--end-state", "completed"),
            ("agent", "logs", "echo"),
        )
        answers = await pipecat(running, tmp_path, *commands, mode=mode)
        assert {done.code for done in answers} == {0}, answers
        listed, status, sessions, one, ended, logs = (done.output + done.errors for done in answers)
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

        def ask(token: str, *commands: tuple[str, ...]):
            return pipecat(running, tmp_path, *commands, token=SECRETS.get(token, token))

        stop = ("agent", "stop", "echo", "--session-id", session_id, "--force")
        organizations, agents, status, stopping, unknown = await ask(
            "reader",
            ("organizations", "list"),
            ("agent", "list"),
            ("agent", "status", "echo"),
            stop,
            ("agent", "status", "nope"),
        )
        (stranger,) = await ask("nobody", ("agent", "list"))
        assert organizations.json["organizations"][0]["name"] == "switchboard"
        assert [one["name"] for one in agents.json["agents"]] == ["echo", "other"]
        assert status.json["activeSessionCount"] == 1
        assert (stopping.code, unknown.code, stranger.code) == (1, 1, 1)
        assert (await running.http.get(f"/sessions/{session_id}", headers=bearer("root"))).json()[
            "state"
        ] == "starting"
        (stopped,) = await ask("root", stop)
        assert stopped.code == 0, stopped.output + stopped.errors
        (record,) = await ask("root", ("agent", "sessions", "echo", "--id", session_id))
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
async def test_organizations_are_for_those_who_may_list(keyed_dispatcher, who, path, status):
    answer = await keyed_dispatcher.http.get(f"{SERVICES}{path}", headers=bearer(who))
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
        command = ("agent", "logs", "echo", "--session-id", over)
        logs, last = await pipecat(running, tmp_path, command, (*command, "--limit", "1"))
        lines = [line["log"] for line in logs.json["logs"]]
        assert f"INFO {over} ended: The bot said goodbye." in lines
        printed = [line for line in lines if not line.startswith(f"INFO {over} ")]
        assert len(printed) == len(shown)
        assert all(line.endswith(words) for line, words in zip(printed, shown, strict=True))
        assert len(last.json["logs"]) == 1
