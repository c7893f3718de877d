"""The end of bots' VMs when a stack is taken down: only ours go, and all of them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from stacks.gcp import ending
from stacks.gcp.ending import END_SECONDS, GcpError, Machines, MachinesProvider

ZONES = ("us-central1-a", "us-central1-b")
INPUTS = {"project": "voice-1234", "zones": list(ZONES), "deployment": "prod"}


class Engine:
    """VMs that are gone so many looks after they are told to be. Filters of lists are ignored."""

    def __init__(self, looks: int = 2) -> None:
        self.labels = {f"prod-m-{number}": {ending.LABEL: "prod"} for number in range(3)}
        self.labels["database"] = {}
        self.labels["prod-m-other"] = {ending.LABEL: "prod-m"}
        self.labels["theirs"] = {ending.LABEL: "prod"}
        self.left = dict.fromkeys(self.labels, looks)
        self.deleted: list[str] = []
        self.refusals: list[int] = []
        self.endless = False
        self.now = 0.0

    def handle(self, request: httpx.Request) -> httpx.Response:
        zone, name = request.url.path.split("/zones/")[1].split("/")[0], request.url.path.rpartition("/")[2]
        if request.method == "DELETE":
            if self.refusals:
                return httpx.Response(self.refusals.pop(0), json={"error": {"message": "not now"}})
            self.deleted.append(name)
            return httpx.Response(200, json={"name": "operation-1"})
        there = [] if zone != ZONES[0] else [name for name, left in self.left.items() if left > 0]
        if "pageToken" not in request.url.params:
            for name in self.deleted:
                self.left[name] -= 1
        first, second = there[::2], there[1::2]
        names = second if request.url.params.get("pageToken") == "2" else first
        items = [{"name": name, "labels": self.labels[name]} for name in names]
        more = {"nextPageToken": "2"} if self.endless or names is first else {}
        return httpx.Response(200, json={"items": items, **more})

    def end_all(self) -> None:
        with httpx.Client(
            base_url="http://compute.test", transport=httpx.MockTransport(self.handle)
        ) as client:
            Machines(client, "voice-1234", ZONES, "prod").end_all(lambda: "token", self.sleep, self.clock)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


def test_only_vms_of_the_deployment_are_deleted_though_the_filter_is_ignored() -> None:
    engine = Engine()
    engine.end_all()
    assert sorted(engine.deleted) == ["prod-m-0", "prod-m-1", "prod-m-2"]


@pytest.mark.parametrize("status", [403, 429, 503])
def test_deletion_is_repeated_when_google_has_no_time_for_it(status: int) -> None:
    engine = Engine()
    engine.refusals = [status, status]
    engine.end_all()
    assert sorted(engine.deleted) == ["prod-m-0", "prod-m-1", "prod-m-2"]


def test_refusal_is_told_when_it_does_not_end() -> None:
    engine = Engine()
    engine.refusals = [403] * 10_000
    with pytest.raises(GcpError, match=r"did not go within 300 s: .*403: not now"):
        engine.end_all()
    assert engine.now <= END_SECONDS + 10


def test_refusal_is_told_at_once_when_it_is_for_good() -> None:
    engine = Engine()
    engine.refusals = [400]
    with pytest.raises(GcpError, match="was answered 400: not now"):
        engine.end_all()


def test_list_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "MOST_PAGES", 5)
    engine = Engine()
    engine.endless = True
    with pytest.raises(GcpError, match="more than 5 pages"):
        engine.end_all()


def test_answer_that_is_no_list_is_told_in_a_line() -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json=[1]))
    with httpx.Client(base_url="http://compute.test", transport=transport) as client:
        machines = Machines(client, "voice-1234", ZONES, "prod")
        with pytest.raises(GcpError, match="without a list of VMs"):
            machines.end_all(lambda: "token", lambda _seconds: None, lambda: 0.0)


def test_zone_that_is_given_up_is_remembered_and_changes_nothing_again() -> None:
    provider = MachinesProvider()
    news: dict[str, Any] = {**INPUTS, "zones": [ZONES[1], "us-central1-c"]}
    assert provider.diff("prod", INPUTS, news).changes
    outs = provider.update("prod", INPUTS, news).outs
    assert outs is not None
    assert outs["zones"] == [*ZONES, "us-central1-c"]
    assert not provider.diff("prod", outs, news).changes
    assert provider.diff("prod", outs, {**news, "deployment": "other"}).replaces == ["deployment"]
