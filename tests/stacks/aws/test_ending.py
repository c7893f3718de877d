"""The end of bots' tasks when a stack is taken down."""

from __future__ import annotations

from typing import Any

import pytest

from stacks.aws.ending import END_SECONDS, AwsError, TasksProvider, client, end_all
from tests.stacks.aws.moto_server import Moto


class Ecs:
    """A cluster whose tasks end so many looks after they are told to."""

    def __init__(self, tasks: list[str], looks: int) -> None:
        self.left = dict.fromkeys(tasks, looks)
        self.stopped: list[str] = []
        self.now = 0.0

    def get_paginator(self, _: str) -> Ecs:
        return self

    def paginate(self, cluster: str) -> list[dict[str, Any]]:
        # As ECS: what is told to stop has the desired status STOPPED, and is not listed.
        running = [task for task in self.left if task not in self.stopped]
        return [{"taskArns": running[:1]}, {"taskArns": running[1:]}]

    def stop_task(self, cluster: str, task: str, reason: str) -> None:
        self.stopped.append(task)

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        assert len(tasks) <= 100
        found = []
        for task in tasks:
            self.left[task] -= 1
            found.append(
                {"taskArn": task, "lastStatus": "STOPPED" if self.left[task] < 1 else "DEPROVISIONING"}
            )
        return {"tasks": found}

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


def test_every_page_of_tasks_is_stopped_once() -> None:
    ecs = Ecs(["a/1", "a/2", "a/3"], looks=3)
    end_all(ecs, "bots", ecs.sleep, ecs.clock)
    assert ecs.stopped == ["a/1", "a/2", "a/3"]
    assert set(ecs.left.values()) == {0}, "it waits for all of them"


def test_more_tasks_than_one_answer_tells_of() -> None:
    ecs = Ecs([f"a/{number:03}" for number in range(250)], looks=2)
    end_all(ecs, "bots", ecs.sleep, ecs.clock)
    assert set(ecs.left.values()) == {0}


def test_tasks_that_do_not_end_are_told() -> None:
    ecs = Ecs(["a/1", "a/2"], looks=10_000)
    with pytest.raises(
        AwsError, match=f"2 tasks of the cluster bots did not end within {END_SECONDS} s: 1, 2"
    ):
        end_all(ecs, "bots", ecs.sleep, ecs.clock)


def test_profile_that_is_not_there_is_told() -> None:
    with pytest.raises(AwsError, match=r"aws:profile: .*nobody.*; allowed: a profile of"):
        client("us-east-1", "nobody-has-this-profile")


def test_another_profile_ends_no_task() -> None:
    here = {"cluster": "bots", "region": "us-east-1", "profile": ""}
    found = TasksProvider().diff("bots", here, {**here, "profile": "work"})
    assert (found.changes, found.replaces) == (True, [])
    assert TasksProvider().diff("bots", here, {**here, "cluster": "more"}).replaces == ["cluster"]


@pytest.fixture
def ecs(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", moto.url)
    return moto.client("ecs")


def test_a_clusters_tasks_end_and_those_of_others_do_not(ecs: Any, moto: Moto) -> None:
    ecs.register_task_definition(
        family="bot",
        networkMode="awsvpc",
        containerDefinitions=[{"name": "bot", "image": "x", "memory": 512}],
    )
    ec2 = moto.client("ec2")
    network = {
        "subnets": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
        "securityGroups": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
    }
    started = {}
    for cluster in ("bots", "others"):
        ecs.create_cluster(clusterName=cluster)
        ecs.run_task(
            cluster=cluster,
            taskDefinition="bot",
            launchType="FARGATE",
            count=2,
            networkConfiguration={"awsvpcConfiguration": network},
        )
        started[cluster] = ecs.list_tasks(cluster=cluster)["taskArns"]
    assert len(started["bots"]) == 2
    TasksProvider().delete("bots", {"cluster": "bots", "region": "us-east-1", "profile": ""})
    stopped = ecs.describe_tasks(cluster="bots", tasks=started["bots"])["tasks"]
    assert [one["lastStatus"] for one in stopped] == ["STOPPED", "STOPPED"]
    assert ecs.list_tasks(cluster="others")["taskArns"] == started["others"]


def test_a_cluster_that_is_gone_has_no_tasks(ecs: Any) -> None:
    TasksProvider().delete("bots", {"cluster": "bots", "region": "us-east-1", "profile": ""})
    assert ecs.list_clusters()["clusterArns"] == []
