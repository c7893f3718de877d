"""`make logs` of an `aws` stack: lines from CloudWatch Logs, which moto stands in for."""

from __future__ import annotations

import time
from typing import Any

import pytest

from stacks.aws.tail import Tail
from stacks.errors import StackError
from stacks.log_commands import show_commands, tool_of
from stacks.shared.tail import BEGIN_SECONDS
from tests.stacks.aws.moto_server import Moto

DISPATCHER, BOTS = "/switchboard-prod/dispatcher", "/switchboard-prod/bots"
LOG = f"aws logs tail {DISPATCHER} --region us-east-1"
SESSION = "5f0c1d2e-0a1b-4c2d-8e3f-405162738495"


class Groups:
    """The log groups of a stack."""

    def __init__(self, moto: Moto) -> None:
        self.logs: Any = moto.client("logs")
        self.ecs: Any = moto.client("ecs")
        self.ecs.create_cluster(clusterName="switchboard-prod")
        for group in (DISPATCHER, BOTS):
            self.logs.create_log_group(logGroupName=group)
            if group == DISPATCHER:
                self.logs.create_log_stream(logGroupName=group, logStreamName="dispatcher/dispatcher/0")

    def write(self, group: str, stream: str, *lines: str, ago: float = 0.0) -> None:
        stamp = int(1000 * (time.time() - ago))
        events = [{"timestamp": stamp + index, "message": line} for index, line in enumerate(lines)]
        self.logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)

    def start(self, session: str) -> str:
        """Start a bot's task; return the name of its log stream."""
        made = self.ecs.register_task_definition(
            family="echo", containerDefinitions=[{"name": "bot", "image": "b", "memory": 512}]
        )
        (task,) = self.ecs.run_task(
            cluster="switchboard-prod",
            taskDefinition=made["taskDefinition"]["taskDefinitionArn"],
            launchType="FARGATE",
            startedBy=f"switchboard/m-{session}",
            networkConfiguration={"awsvpcConfiguration": {"subnets": [], "securityGroups": []}},
        )["tasks"]
        stream = f"bot/bot/{task['taskArn'].rpartition('/')[2]}"
        self.logs.create_log_stream(logGroupName=BOTS, logStreamName=stream)
        return stream


@pytest.fixture
def groups(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Groups:
    for name, value in {
        "AWS_ENDPOINT_URL": moto.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():
        monkeypatch.setenv(name, value)
    return Groups(moto)


def shown(session: str = "", bots: str = f"us-east-1:{BOTS}") -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    show_commands(tool_of(LOG, [bots]), session, lambda *line: said.append(line), once=True)
    return said


def test_lines_of_dispatcher_and_bots_are_shown(groups: Groups) -> None:
    stream = groups.start(SESSION)
    groups.write(DISPATCHER, "dispatcher/dispatcher/0", "ready")
    groups.write(BOTS, stream, "hello")
    assert sorted(shown()) == [(BOTS, f"{stream.rpartition('/')[2]} hello"), ("dispatcher", "ready")]


def test_session_shows_its_own_task_from_the_beginning(groups: Groups) -> None:
    other, stream = groups.start("another"), groups.start(SESSION)
    old = 2 * BEGIN_SECONDS
    groups.write(DISPATCHER, "dispatcher/dispatcher/0", f"session {SESSION}: begins", "else", ago=old)
    groups.write(BOTS, stream, "hello", ago=old)
    groups.write(BOTS, other, "not this")
    assert sorted(shown(SESSION)) == [
        ("dispatcher", f"session {SESSION}: begins"),
        (f"m-{SESSION}", "hello"),
    ]


def test_session_without_a_line_is_told(groups: Groups) -> None:
    groups.write(DISPATCHER, "dispatcher/dispatcher/0", "else")
    with pytest.raises(StackError, match=f"session {SESSION} has no log on this stack"):
        shown(SESSION)


def test_log_group_that_is_gone_is_told(groups: Groups) -> None:
    groups.logs.delete_log_group(logGroupName=DISPATCHER)
    with pytest.raises(StackError, match="ended with status 1"):
        shown(bots="us-east-1:/other/bots")


def test_placement_in_another_region_is_asked_there(groups: Groups, moto: Moto) -> None:
    group = "/switchboard-prod-frankfurt/bots"
    there: Any = moto.client("logs", "eu-central-1")
    there.create_log_group(logGroupName=group)
    there.create_log_stream(logGroupName=group, logStreamName="bot/bot/0123")
    there.put_log_events(
        logGroupName=group,
        logStreamName="bot/bot/0123",
        logEvents=[{"timestamp": int(1000 * time.time()), "message": "guten Tag"}],
    )
    assert (group, "0123 guten Tag") in shown(bots=f"eu-central-1:{group}")


def test_line_is_followed_once_even_if_it_comes_late(groups: Groups) -> None:
    tail = Tail(groups.logs, DISPATCHER)
    groups.write(DISPATCHER, "dispatcher/dispatcher/0", "one")
    assert [line for _, line in tail.lines()] == ["one"]
    groups.write(DISPATCHER, "dispatcher/dispatcher/0", "late", ago=30.0)
    groups.write(DISPATCHER, "dispatcher/dispatcher/0", "two")
    assert [line for _, line in tail.lines()] == ["late", "two"]
    assert list(tail.lines()) == []


def test_what_was_long_ago_is_not_shown_unasked(groups: Groups) -> None:
    groups.write(DISPATCHER, "dispatcher/dispatcher/0", "old", ago=2 * BEGIN_SECONDS)
    assert list(Tail(groups.logs, DISPATCHER).lines()) == []
    assert [line for _, line in Tail(groups.logs, DISPATCHER, text="old").lines()] == ["old"]
