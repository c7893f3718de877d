"""The proxy before an engine: what reaches the engine, and what of its answers reaches the caller."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.protocol import MACHINE_TOKEN_VARIABLE, TRACEPARENT_VARIABLE
from dispatcher.domain.model import MachineState
from dispatcher.engine_proxy.proxy import CALL_SECONDS
from dispatcher.engine_proxy.rules import Rules
from dispatcher.machines.container import provider as container
from dispatcher.machines.container.provider import ContainerProvider
from dispatcher.machines.container.request import (
    DEPLOYMENT_LABEL,
    IMAGE_LABEL,
    MACHINE_LABEL,
    MEMORY_LABEL,
    archive,
    content_of,
)
from dispatcher.machines.provider import MachineSpec, NoCapacity, Preparation, Rejected
from tests.dispatcher.engine_proxy.world import CREATE, FACTS, IMAGE, SETTINGS, listed, wanted, world
from tests.patience import PATIENCE

SPEC = MachineSpec(
    id="m-1",
    bot_file="bot.py",
    arguments=("--session-id", "1"),
    environment={"OPENAI_API_KEY": "sk", MACHINE_TOKEN_VARIABLE: "token", TRACEPARENT_VARIABLE: "00-1-2-01"},
    cpu=0.3,
    memory_mb=512,
    max_duration=timedelta(seconds=3600),
    image=IMAGE,
)


TOKEN = {MACHINE_TOKEN_VARIABLE: "token"}


async def test_the_provider_works_through_it(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
        assert (await provider.create(SPEC)).state is MachineState.started
        status = await provider.get("m-1")
        assert status is not None
        assert (status.state, status.exit_code) == (MachineState.gone, 3)
        await provider.stop("m-1", timedelta(seconds=5))
        assert proxy.changed == [
            ("POST", CREATE),
            ("POST", "/v1.41/containers/id-of-calls-m-1/start"),
            ("POST", "/v1.41/containers/id-of-calls-m-1/stop?t=5"),
        ]
        await provider.close()


HAND_OVER = "/v1.41/containers/calls-m-1/archive?path=/run/switchboard"


async def test_the_provider_hands_variables_over_through_it(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.labels = {IMAGE_LABEL: "true"}
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
        spec = replace(SPEC, agent_environment={"OPENAI_API_KEY": "sk"}, environment=TOKEN)
        assert (await provider.create(spec)).state is MachineState.started
        assert [path for _, path in proxy.changed] == [
            CREATE,
            "/v1.41/containers/id-of-calls-m-1/archive?path=%2Frun%2Fswitchboard",
            "/v1.41/containers/id-of-calls-m-1/start",
        ]
        created, handed = (
            content for method, _, content in proxy.engine.asked if method != "GET" and content
        )
        assert b"sk" not in created
        assert json.loads(content_of(handed)) == {"OPENAI_API_KEY": "sk", **TOKEN}
        await provider.close()


@pytest.mark.parametrize("status", ["running", "exited"])
async def test_nothing_is_handed_over_to_a_container_that_has_run(tmp_path: Path, status: str) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.status = status
        code, answer = await proxy.call("PUT", HAND_OVER, archive({"A": "b"}))
        assert (code, proxy.changed) == (409, [])
        assert answer["message"] == "container calls-m-1 has run: nothing is handed over to it"
        code, _ = await proxy.call("PUT", HAND_OVER.replace("m-1", "m-other"), archive({"A": "b"}))
        assert (code, proxy.changed) == (404, [])


async def test_a_container_that_somebody_else_has_started_is_left_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.labels, proxy.engine.status = {IMAGE_LABEL: "true"}, "running"
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
        assert (await provider.create(SPEC)).state is MachineState.started
        assert proxy.changed == [("POST", CREATE)], "neither removed nor started again"
        await provider.close()


PULL = f"/v1.41/images/create?fromImage={quote_plus(IMAGE)}"


async def test_the_provider_pulls_through_it(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy, asyncio.timeout(PATIENCE):
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
        proxy.engine.lacks.add(IMAGE)
        await provider.prepare([Preparation(bot_file="bot.py", environment={}, image=IMAGE)])
        while proxy.engine.lacks:
            await proxy.call("GET", "/_ping")
        assert proxy.changed == [("POST", PULL)]
        # And one that was removed since.
        proxy.engine.lacks.add(IMAGE)
        assert (await provider.create(SPEC)).state is MachineState.started
        start = "/v1.41/containers/id-of-calls-m-1/start"
        assert proxy.changed[1:] == [("POST", path) for path in (CREATE, PULL, CREATE, start)]
        await provider.close()


@given(cpu=st.floats(0.01, 64))
@example(cpu=1.001)
@settings(max_examples=30)
def test_a_machine_may_have_all_the_cpu_that_there_may_be(
    tmp_path_factory: pytest.TempPathFactory, cpu: float
) -> None:
    """As the largest of a stack's agents has: what the provider rounds up is no more than what may be."""

    async def run() -> None:
        allowed = SETTINGS.model_copy(update={"max_cpu": cpu})
        async with world(tmp_path_factory.mktemp("engine"), settings=allowed) as proxy:
            provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
            assert (await provider.create(replace(SPEC, cpu=cpu))).state is MachineState.started
            await provider.close()

    asyncio.run(run())


async def test_a_refusal_is_permanent_to_the_fleet(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="host")
        with pytest.raises(Rejected, match=r"HostConfig\.NetworkMode: 'host' is refused"):
            await provider.create(SPEC)
        assert proxy.changed == []
        await provider.close()


async def test_a_container_that_the_host_has_no_memory_for(tmp_path: Path) -> None:
    """Nine tenths of 8 GiB are for machines. One that has ended takes none."""

    async with world(tmp_path) as proxy:
        proxy.engine.listed = [listed("m-2", memory_mb=6861), listed("m-3", "exited", 4096)]
        status, answer = await proxy.call("POST", CREATE, wanted())
        assert (status, proxy.changed) == (503, [])
        assert answer["message"] == (
            "not enough memory: 7373 MiB would be needed for all machines of this host, "
            "and 7372 MiB are for machines"
        )
        proxy.engine.listed = [listed("m-2", memory_mb=6860)]
        assert (await proxy.call("POST", CREATE, wanted()))[0] == 201


async def test_what_has_the_deployments_label_alone_fails_no_create(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        theirs, unsized = listed("m-2", memory_mb=8192), listed("m-3", memory_mb=8192)
        del theirs["Labels"][MACHINE_LABEL], unsized["Labels"][MEMORY_LABEL]
        proxy.engine.listed = [theirs, unsized]
        assert (await proxy.call("POST", CREATE, wanted()))[0] == 201


async def test_no_more_containers_than_there_may_be(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.listed = [listed(f"m-{number}", "exited") for number in range(2, 8)]
        status, answer = await proxy.call("POST", CREATE, wanted())
        assert (status, proxy.changed) == (503, [])
        assert answer["message"] == "too many containers: 7, and 6 is the most"
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
        with pytest.raises(NoCapacity, match="too many containers"):
            await provider.create(SPEC)
        await provider.close()
        # One that it has already is no new one: the engine says that its name is taken.
        proxy.engine.listed[0] = listed("m-1", "exited")
        assert (await proxy.call("POST", CREATE, wanted()))[0] == 201


async def test_creates_at_the_same_time_have_no_memory_twice(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.creates.clear()
        facts = [replace(FACTS, machine_id=f"m-{number}", memory_mb=2048) for number in range(1, 5)]
        creates = [
            asyncio.ensure_future(
                proxy.call("POST", f"/v1.41/containers/create?name=calls-{one.machine_id}", wanted(one))
            )
            for one in facts
        ]
        first, _ = await asyncio.wait(creates, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        assert [create.result()[0] for create in first] == [503], "while the others are under way"
        proxy.engine.creates.set()
        answers = await asyncio.gather(*creates)
        assert sorted(status for status, _ in answers) == [201, 201, 201, 503]
        # The engine lists none of them: there is room again.
        assert (await proxy.call("POST", CREATE, wanted()))[0] == 201


def of_machine(number: int, memory_mb: int = 512) -> tuple[str, str, dict[str, Any]]:
    """The create of a machine: method, path and body."""
    facts = replace(FACTS, machine_id=f"m-{number}", memory_mb=memory_mb)
    return "POST", f"/v1.41/containers/create?name=calls-m-{number}", wanted(facts)


async def test_a_listing_that_is_never_answered_holds_no_later_create(tmp_path: Path) -> None:
    async with world(tmp_path, call_seconds=1) as proxy, asyncio.timeout(PATIENCE):
        proxy.engine.listings.clear()
        status, answer = await proxy.call(*of_machine(1))
        assert (status, answer["message"]) == (504, "the engine did not answer: it takes too long")
        assert proxy.changed == []
        proxy.engine.listings.set()
        assert (await proxy.call(*of_machine(2)))[0] == 201


def test_an_engine_has_as_long_for_a_call_as_the_provider_waits() -> None:
    assert CALL_SECONDS == container.CALL_SECONDS


def test_a_stop_may_take_its_grace_and_a_pull_its_time() -> None:
    rules = Rules(SETTINGS)
    assert rules.read("POST", "/v1.41/containers/calls-m-1/stop?t=7", b"").waits == 7
    assert rules.read("POST", f"/v1.41/images/create?fromImage={IMAGE}", b"").waits is None
    assert rules.read("DELETE", "/v1.41/containers/calls-m-1?force=True&v=True", b"").waits == 0


async def test_nothing_is_sent_for_a_caller_who_hung_up(tmp_path: Path) -> None:
    """The provider counts on it: what it gave up is settled after a while."""

    async with world(tmp_path) as proxy, asyncio.timeout(PATIENCE):
        engine = proxy.engine
        engine.listings.clear()
        listings = "/v1.41/containers/json"
        await proxy.leave_after(
            *of_machine(1), lambda: any(path.startswith(listings) for _, path, _ in engine.asked)
        )
        while listings not in engine.given_up:
            await proxy.call("GET", "/_ping")
        engine.listings.set()
        assert (await proxy.call(*of_machine(2)))[0] == 201
        assert proxy.changed == [("POST", of_machine(2)[1])]
        # Nor is its machine taken for one that is being created.
        assert (await proxy.call(*of_machine(1)))[0] == 201


START = "/v1.41/containers/calls-m-1/start"
LOOK = "/v1.41/containers/calls-m-1/json"


async def test_no_start_is_sent_for_a_caller_who_hung_up(tmp_path: Path) -> None:
    # The look is given up because of him, not because it takes too long.
    async with world(tmp_path, call_seconds=3600) as proxy, asyncio.timeout(PATIENCE):
        engine = proxy.engine
        engine.looks.clear()
        await proxy.leave_after("POST", START, None, lambda: ("GET", LOOK, b"") in engine.asked)
        while LOOK not in engine.given_up:
            await proxy.call("GET", "/_ping")
        engine.looks.set()
        assert (await proxy.call("GET", LOOK))[0] == 200
        assert proxy.changed == []
        # Nor does it keep others from it.
        assert (await proxy.call("POST", START))[0] == 204


async def test_who_waits_for_the_look_of_another_starts_nothing_twice(tmp_path: Path) -> None:
    """It ends as soon as it is started: what the second sees is of then."""

    async with world(tmp_path) as proxy, asyncio.timeout(PATIENCE):
        proxy.engine.looks.clear()
        starts = [asyncio.ensure_future(proxy.call("POST", START)) for _ in range(3)]
        while ("GET", LOOK, b"") not in proxy.engine.asked:
            await proxy.call("GET", "/_ping")
        proxy.engine.looks.set()
        assert {(await start)[0] for start in starts} <= {204, 304}
        assert proxy.changed == [("POST", "/v1.41/containers/id-of-calls-m-1/start")]


async def test_a_look_that_is_never_answered_holds_no_later_start(tmp_path: Path) -> None:
    async with world(tmp_path, call_seconds=1) as proxy, asyncio.timeout(PATIENCE):
        proxy.engine.looks.clear()
        status, answer = await proxy.call("POST", START)
        assert (status, answer["message"]) == (504, "the engine did not answer: it takes too long")
        proxy.engine.looks.set()
        assert (await proxy.call("POST", START))[0] == 204


async def test_a_create_that_was_sent_keeps_its_room_when_its_caller_leaves(tmp_path: Path) -> None:
    """The engine goes on creating: whoever hangs up each time would get any number of containers."""

    async with world(tmp_path) as proxy, asyncio.timeout(PATIENCE):
        proxy.engine.creates.clear()
        for number in range(1, 4):
            sent = ("POST", of_machine(number)[1])
            await proxy.leave_after(*of_machine(number, 2048), lambda sent=sent: sent in proxy.changed)
        assert (await proxy.call(*of_machine(4, 2048)))[0] == 503
        assert (await proxy.call(*of_machine(1, 4)))[0] == 409, "nor is it given back by a second create"
        assert (await proxy.call(*of_machine(4, 2048)))[0] == 503
        proxy.engine.creates.set()
        while (await proxy.call(*of_machine(4, 2048)))[0] != 201:
            pass
        assert proxy.engine.given_up == []


async def test_a_container_that_has_ended_is_not_started_again(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        assert [(await proxy.call("POST", START))[0] for _ in range(2)] == [204, 304]
        assert proxy.changed == [("POST", "/v1.41/containers/id-of-calls-m-1/start")]


@pytest.mark.parametrize("status", ["running", "paused", "restarting", "exited"])
async def test_only_a_container_that_never_ran_is_started(tmp_path: Path, status: str) -> None:
    """One that runs when we look may have ended when the engine starts it."""

    async with world(tmp_path) as proxy:
        proxy.engine.status = status
        assert (await proxy.call("POST", START))[0] == 304
        assert proxy.changed == []


async def test_starts_at_the_same_time_are_one(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy, asyncio.timeout(PATIENCE):
        proxy.engine.starts.clear()
        await proxy.leave_after("POST", START, None, lambda: bool(proxy.changed))
        second = asyncio.ensure_future(proxy.call("POST", START))
        await proxy.call("GET", "/_ping")
        proxy.engine.starts.set()
        assert (await second)[0] in (204, 304)
        assert proxy.changed == [("POST", "/v1.41/containers/id-of-calls-m-1/start")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.41/containers/calls-m-other/json"),
        ("POST", "/v1.41/containers/calls-m-other/start"),
        ("POST", "/v1.41/containers/calls-m-other/stop?t=1"),
        ("DELETE", "/v1.41/containers/calls-m-other?force=true&v=true"),
        ("GET", "/v1.41/containers/calls-m-other/logs?stdout=true&stderr=true&follow=0&tail=20"),
        ("GET", "/v1.41/containers/calls-m-9/json"),
    ],
)
async def test_a_container_of_somebody_elses_is_not_there(tmp_path: Path, method: str, path: str) -> None:
    async with world(tmp_path) as proxy:
        status, answer = await proxy.call(method, path)
        assert status == 404
        assert answer["message"].startswith("No such container")
        assert proxy.changed == []


async def test_of_answers_only_what_the_provider_reads(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        assert (await proxy.call("GET", "/_ping"))[0] == 200
        assert await proxy.call("GET", "/v1.41/info") == (200, {"MemTotal": 2**33, "PidsLimit": False})
        _, found = await proxy.call("GET", "/v1.41/containers/calls-m-1/json")
        assert "secret" not in json.dumps(found)
        assert set(found["HostConfig"]) == {"Memory"}
        _, image = await proxy.call("GET", f"/v1.41/images/{IMAGE}/json")
        assert image == {"Id": "sha256:1", "Config": {"Labels": {}}}


async def test_an_engine_that_is_away_is_a_bad_gateway(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        (tmp_path / "engine.sock").unlink()
        status, answer = await proxy.call("GET", "/v1.41/info")
        assert status == 502
        assert answer["message"].startswith("the engine did not answer")


async def test_an_answer_that_the_engine_breaks_off_breaks_off(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.cuts = True
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(f"POST /v1.41/images/create?fromImage={IMAGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1") == 1, "no second answer in the first"
        assert not answer.endswith(b"0\r\n\r\n"), "no end, which would be a pull that went well"


@pytest.mark.parametrize(("newest", "version"), [("1.41", "v1.41"), ("1.52", "v1.44")])
async def test_what_the_proxy_asks_itself_is_in_a_version_that_the_engine_has(
    tmp_path: Path, newest: str, version: str
) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.newest = newest
        answer = await asyncio.to_thread(httpx.get, f"{proxy.url}/_ping")
        assert (answer.status_code, answer.headers["Api-Version"]) == (200, newest)
        assert [path for _, path, _ in proxy.engine.asked] == ["/_ping", f"/{version}/info"]


async def test_what_is_passed_on_keeps_its_version(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        assert (await proxy.call("POST", "/v1.44/containers/calls-m-1/start"))[0] == 204
        assert [path for _, path, _ in proxy.engine.asked] == [
            "/v1.44/containers/calls-m-1/json",
            "/v1.44/containers/id-of-calls-m-1/start",
        ]
        assert (await proxy.call("GET", "/v1.52/info"))[0] == 403


async def test_an_engine_that_refuses_our_versions_is_not_healthy(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        words = "client version 1.41 is too old. Minimum supported API version is 1.44"
        proxy.engine.refuses = words
        status, answer = await proxy.call("GET", "/_ping")
        assert status == 500
        assert words in answer["message"]


async def test_an_answer_about_another_container_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        proxy.engine.mixed_up["calls-m-1"] = "calls-m-2"
        for method, path in (("GET", "/json"), ("POST", "/stop?t=1"), ("DELETE", "?force=true&v=true")):
            status, answer = await proxy.call(method, f"/v1.41/containers/calls-m-1{path}")
            assert status == 500
            assert "answered with container calls-m-2 when asked for calls-m-1" in answer["message"]
        assert proxy.changed == []


async def test_a_list_that_the_engine_did_not_filter_has_no_strangers(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        theirs = listed("m-3", memory_mb=8192)
        theirs["Labels"][DEPLOYMENT_LABEL] = "others"
        proxy.engine.listed = [theirs, listed("m-2")]
        filters = quote_plus(json.dumps({"label": [f"{DEPLOYMENT_LABEL}=calls"]}))
        _, answer = await proxy.call("GET", f"/v1.41/containers/json?all=true&filters={filters}")
        assert [one["Labels"][MACHINE_LABEL] for one in answer] == ["m-2"]
        assert (await proxy.call("POST", CREATE, wanted()))[0] == 201
