"""The proxy before an engine: what reaches the engine, and what of its answers reaches the caller."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bot.protocol import MACHINE_TOKEN_VARIABLE, TRACEPARENT_VARIABLE
from dispatcher.engine_proxy.proxy import until_lost
from dispatcher.machines.container import ContainerProvider
from dispatcher.machines.provider import MachineSpec, MachineState, NoCapacity, Rejected
from tests.dispatcher.engine_proxy.world import FACTS, IMAGE, listed, wanted, world
from tests.doubles import VirtualClock

CREATE = "/v1.41/containers/create?name=calls-m-1"
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


def test_the_provider_works_through_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
            assert (await provider.create(SPEC)).state is MachineState.started
            status = await provider.get("m-1")
            assert status is not None
            assert (status.state, status.exit_code) == (MachineState.gone, 3)
            await provider.stop("m-1", timedelta(seconds=5))
            await provider.prepare([])
            assert proxy.changed == [
                ("POST", CREATE),
                ("POST", "/v1.41/containers/id-of-calls-m-1/start"),
                ("POST", "/v1.41/containers/id-of-calls-m-1/stop?t=5"),
            ]
            await provider.close()

    asyncio.run(run())


def test_a_refusal_is_permanent_to_the_fleet(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            provider = ContainerProvider(url=proxy.url, deployment="calls", network="host")
            with pytest.raises(Rejected, match=r"HostConfig\.NetworkMode: 'host' is refused"):
                await provider.create(SPEC)
            assert proxy.changed == []
            await provider.close()

    asyncio.run(run())


def test_a_container_that_the_host_has_no_memory_for(tmp_path: Path) -> None:
    """Of 8 GiB nine tenths are for machines. What has ended takes none."""

    async def run() -> None:
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

    asyncio.run(run())


def test_no_more_containers_than_there_may_be(tmp_path: Path) -> None:
    async def run() -> None:
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

    asyncio.run(run())


def test_creates_at_the_same_time_have_no_memory_twice(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            proxy.engine.creates.clear()
            facts = [replace(FACTS, machine_id=f"m-{number}", memory_mb=2048) for number in range(1, 5)]
            creates = [
                asyncio.ensure_future(
                    proxy.call("POST", f"/v1.41/containers/create?name=calls-{one.machine_id}", wanted(one))
                )
                for one in facts
            ]
            first, _ = await asyncio.wait(creates, return_when=asyncio.FIRST_COMPLETED, timeout=30)
            assert [create.result()[0] for create in first] == [503], "while the others are under way"
            proxy.engine.creates.set()
            answers = await asyncio.gather(*creates)
            assert sorted(status for status, _ in answers) == [201, 201, 201, 503]
            # The engine lists none of them: there is room again.
            assert (await proxy.call("POST", CREATE, wanted()))[0] == 201

    asyncio.run(run())


def test_a_container_that_has_ended_is_not_started_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            start = "/v1.41/containers/calls-m-1/start"
            assert [(await proxy.call("POST", start))[0] for _ in range(2)] == [204, 304]
            assert proxy.changed == [("POST", "/v1.41/containers/id-of-calls-m-1/start")]

    asyncio.run(run())


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
def test_a_container_of_somebody_elses_is_not_there(tmp_path: Path, method: str, path: str) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            status, answer = await proxy.call(method, path)
            assert status == 404
            assert answer["message"].startswith("No such container")
            assert proxy.changed == []

    asyncio.run(run())


def test_of_answers_only_what_the_provider_reads(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            assert (await proxy.call("GET", "/_ping"))[0] == 200
            assert await proxy.call("GET", "/v1.41/info") == (200, {"MemTotal": 2**33})
            _, found = await proxy.call("GET", "/v1.41/containers/calls-m-1/json")
            assert "secret" not in json.dumps(found)
            assert set(found["HostConfig"]) == {"Memory"}
            _, image = await proxy.call("GET", f"/v1.41/images/{IMAGE}/json")
            assert image == {"Id": "sha256:1"}

    asyncio.run(run())


HEAD = f"POST {CREATE} HTTP/1.1\r\nHost: x"


@pytest.mark.parametrize(
    ("head", "content"),
    [
        # Two lengths, or a length and chunks: who reads the one and who reads the other see other requests.
        (f"{HEAD}\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
        (f"{HEAD}\r\nContent-Length: 5\r\nContent-Length: 6", b"0\r\n\r\n"),
        (f"{HEAD}\r\nTransfer-Encoding: chunked, identity", b"0\r\n\r\n"),
        (f"{HEAD}\r\nTransfer-Encoding : chunked", b"0\r\n\r\n"),
        (f"{HEAD}\r\nTransfer-Encoding: chunked", b"zz\r\n"),
    ],
)
def test_a_body_of_unclear_length_never_reaches_the_engine(tmp_path: Path, head: str, content: bytes) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + content)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            assert answer == b"" or answer.split()[1] in (b"400", b"403")
            assert proxy.engine.asked == []

    asyncio.run(run())


def test_a_body_in_chunks_is_read_like_any_other(tmp_path: Path) -> None:
    def chunked(content: dict[str, Any]) -> bytes:
        text = json.dumps(content).encode()
        parts = [text[start : start + 7] for start in range(0, len(text), 7)]
        return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"

    async def run() -> None:
        async with world(tmp_path) as proxy:
            for content, expected in ((wanted(), 201), (wanted() | {"User": "0"}, 403)):
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                head = f"{HEAD}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + chunked(content))
                answer = await reader.read()
                writer.close()
                assert int(answer.split()[1]) == expected
            assert proxy.changed == [("POST", CREATE)]

    asyncio.run(run())


def test_a_body_that_is_too_large(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            made = wanted() | {"Cmd": ["x" * 2**20]}
            status, _ = await proxy.call("POST", CREATE, made)
            assert status == 413
            assert proxy.engine.asked == []

    asyncio.run(run())


def test_a_second_request_behind_the_first_is_judged_by_itself(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(
                b"GET /v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n"
                b"GET /v1.41/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            answer = await reader.read()
            writer.close()
            assert answer.count(b"HTTP/1.1 200") == 1
            assert answer.count(b"HTTP/1.1 403") == 1
            assert [path for _, path, _ in proxy.engine.asked] == ["/v1.41/info"]

    asyncio.run(run())


def test_an_upgrade_is_not_passed_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            head = "POST /v1.41/containers/calls-m-1/attach HTTP/1.1\r\nHost: x\r\nUpgrade: tcp"
            status, _ = await proxy.raw(head)
            assert status == 403
            assert proxy.engine.asked == []

    asyncio.run(run())


def test_an_engine_that_is_away_is_a_bad_gateway(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as proxy:
            (tmp_path / "engine.sock").unlink()
            status, answer = await proxy.call("GET", "/v1.41/info")
            assert status == 502
            assert answer["message"].startswith("the engine did not answer")

    asyncio.run(run())


def test_the_engine_is_lost_when_it_has_not_answered_for_a_minute() -> None:
    clock = VirtualClock()
    answers = iter([True, False, False, False, True, *[False] * 4])
    asked: list[float] = []

    async def ask() -> bool:
        asked.append(clock.now())
        return next(answers)

    began = clock.now()
    clock.run(until_lost(ask, clock))
    assert [at - began for at in asked] == [15.0 * number for number in range(1, 10)]


@pytest.mark.parametrize("engine", ["gone", "failing", "there"])
def test_whether_the_engine_answers(tmp_path: Path, engine: str) -> None:
    async def run() -> bool:
        async with world(tmp_path) as proxy:
            proxy.engine.fails = engine == "failing"
            if engine == "gone":
                (tmp_path / "engine.sock").unlink()
            return await proxy.proxy.engine_answers()

    assert asyncio.run(run()) is (engine == "there")
