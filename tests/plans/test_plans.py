"""Rendered plans: as committed, complete, stable, and without secrets."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from stacks.plan.document import NOTHING
from tests.plans.stacks import CHECKOUT, ECHO, EXAMPLES, KEY, VARIANTS, golden, rendered, rendered_with

STACKS = (*EXAMPLES, *VARIANTS)


def sections(**given: Any) -> dict[str, Any]:
    """Return the sections of an AWS stack's plan, by their titles."""
    return _sections(json.dumps({"cloud": "aws", "keys": [KEY], "agents": ECHO, **given}))


@functools.cache
def _sections(config: str) -> dict[str, Any]:
    return json.loads(rendered_with(json.loads(config))["json"])["sections"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with no more of the environment than a shell has."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "stacks.plan", *arguments],
        cwd=CHECKOUT,
        env={**bare, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("stack", STACKS)
def test_plan_is_as_committed_and_its_text_fits_a_terminal_without_losing_a_cell(stack: str) -> None:
    made = rendered(stack)
    assert made["markdown"] == golden(stack).read_text(), "a changed plan is committed, by `make plans`"
    text = made["text"]
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for section in json.loads(made["json"])["sections"].values():
        for row in section["rows"]:
            for cell in row.values():
                assert cell == NOTHING or " ".join(cell.split()) in words, cell


def test_plan_needs_neither_engine_nor_credentials_nor_a_variable_of_the_agents() -> None:
    made = run("--stack", "docker", "--format", "json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["title"].startswith("Plan of stack docker")


def test_values_of_variables_are_in_no_format() -> None:
    config = {"cloud": "docker", "keys": [KEY], "agents": ECHO}
    for made in rendered_with(config, OPENAI_API_KEY="hunter2-of-openai").values():
        assert "OPENAI_API_KEY" in made
        assert "hunter2" not in made


def test_unknown_stack_is_refused_in_one_line_that_names_those_there_are() -> None:
    made = run("--stack", "nope")
    assert made.returncode == 1
    assert made.stdout == ""
    (line,) = made.stderr.splitlines()
    assert line.startswith("error: STACK: 'nope'")
    there = sorted(one.name.split(".")[1] for one in (CHECKOUT / "stacks").glob("Pulumi.*.yaml"))
    assert line.endswith(f"allowed: {', '.join(there)}")


def test_unknown_format_is_refused_in_one_line_that_names_those_there_are() -> None:
    made = run("--stack", "docker", "--format", "html")
    assert (made.returncode, made.stdout) == (1, "")
    assert made.stderr == "error: FORMAT: 'html' is no format; allowed: text, markdown, json\n"


def test_port_that_is_none_is_refused_in_one_line() -> None:
    made = run("--stack", "docker", "--port", "0")
    assert (made.returncode, made.stdout) == (1, "")
    (line,) = made.stderr.splitlines()
    assert line == 'error: switchboard:port: "0" is refused; allowed: a whole number, 1 to 65535'


def test_bot_that_is_no_file_is_refused_in_one_line() -> None:
    made = run("--stack", "docker", "--bot", "/no/such/bot.py")
    assert (made.returncode, made.stdout) == (1, "")
    (line,) = made.stderr.splitlines()
    assert line.startswith("error: BOT: '/no/such/bot.py' is not a file")


def test_idle_cost_of_aws_is_the_sum_of_the_published_prices() -> None:
    rows = {row["what"]: row["USD"] for row in sections()["Cost"]["rows"] if row["of"].startswith("a month")}
    # By hand: two tasks of 0.5 vCPU and 1 GB with an address each; a load balancer with one LCU and two
    # addresses; db.t4g.micro with 20 GB; two secrets. USD of 720 hours.
    tasks = 2 * 720 * (0.5 * 0.000011244 * 3600 + 0.000001235 * 3600 + 0.005)
    balancer, addresses = 720 * (0.0225 + 0.008), 2 * 720 * 0.005
    database, secrets = 720 * 0.016 + 20 * 0.115, 2 * 0.40
    assert rows["all of it"] == f"${tasks + balancer + addresses + database + secrets:.2f}"


def test_session_cost_of_aws_is_of_the_size_that_fargate_has() -> None:
    (row,) = [row for row in sections()["Cost"]["rows"] if row["of"] == "1000 sessions of 3 min"]
    second = 0.000011244 + 2 * 0.000001235 + 0.005 / 3600
    assert row["USD"] == f"${1000 * 180 * second:.2f}"


def test_permissions_of_the_dispatcher_are_on_its_own_tasks_and_two_roles() -> None:
    rows = sections()["Permissions"]["rows"]
    found = {
        row["may"]: row["on"]
        for row in rows
        if row["identity"].startswith("switchboard-prod-dispatcher-task,")
    }
    assert found == {
        "start tasks of (ecs:RunTask)": "switchboard-prod-echo:*",
        "look at tasks (ecs:DescribeTasks), stop tasks (ecs:StopTask)": (
            "arn:aws:ecs:us-east-1:*:task/switchboard-prod/*"
        ),
        "list tasks (ecs:ListTasks)": "*",
        "tag new tasks (ecs:TagResource)": "arn:aws:ecs:us-east-1:*:task/switchboard-prod/*",
        "hand over the roles (iam:PassRole)": "switchboard-prod-bots-execution, switchboard-prod-bots-task",
    }
    assert all(row["why"] != "no reason is given" for row in rows)


def test_media_ports_are_open_only_where_an_agent_offers_webrtc() -> None:
    daily = {"voice": {"bot": "bot/agents/voice.py", "transports": ["daily"]}}
    without = sections(agents=daily, daily={"domain": "voice"})["Openings"]["rows"]
    udp = [row["ports"] for row in sections()["Openings"]["rows"] if row["ports"].startswith("udp")]
    assert udp == ["udp 32768–60999"]
    assert not [row for row in without if row["ports"].startswith("udp")]


def test_data_of_a_throwaway_stack_is_not_said_to_stay() -> None:
    kept = {row["name"]: row["kept"] for row in sections()["Resources"]["rows"]}
    gone = {row["name"]: row["kept"] for row in sections(throwaway=True)["Resources"]["rows"]}
    assert kept["store"] == "stays after `make down`, unless it is confirmed by name"
    assert gone["store"] == "–"
