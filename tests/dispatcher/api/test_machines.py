"""The channel, from the machine's side."""

import asyncio
import json

import pytest
from pydantic import ValidationError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from bot import protocol
from tests.dispatcher.harness import deployment


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}])
async def test_a_channel_without_a_valid_token_is_refused(tmp_path, headers):
    async with deployment(tmp_path) as running:
        url = running.url.replace("http", "ws") + protocol.CHANNEL_PATH
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


@pytest.mark.parametrize("mine_is", ["first", "last"])
async def test_a_channel_with_two_tokens_is_refused_whichever_is_good(tmp_path, mine_is):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        token = running.provider.specs[f"m-{session_id}"].environment[protocol.MACHINE_TOKEN_VARIABLE]
        headers = [("Authorization", f"Bearer {token}"), ("Authorization", "Bearer another")]
        if mine_is == "last":
            headers.reverse()
        url = running.url.replace("http", "ws") + protocol.CHANNEL_PATH
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            with pytest.raises(ConnectionClosed, match="allowed is one, not 2") as closed:
                await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400


async def test_a_token_is_good_for_its_own_machine_only(tmp_path):
    async with deployment(tmp_path) as running:
        mine = (await running.start())["sessionId"]
        other = (await running.start())["sessionId"]
        machine = await running.machine_of(mine)
        await machine.send(protocol.Hello(machine_id=f"m-{other}", session_id=other, phase="active"))
        with pytest.raises(ConnectionClosed) as closed:
            await machine.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400
        for session_id in (mine, other):
            record = await running.session(session_id)
            assert (record["state"], record["phase"]) == ("starting", None)
        # Its own machine is not shut out by it.
        owner = await running.machine_of(other)
        assert isinstance(await owner.hello(), protocol.Welcome)


async def test_a_token_expires_after_its_session(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        running.clock.advance(7200 + 301)
        machine = await running.machine_of(session_id)
        with pytest.raises(ConnectionClosed):
            await machine.receive()


@pytest.mark.parametrize(
    "frame",
    [
        "not json",
        '{"type": "hello"}',
        '{"type": "welcome", "heartbeat_seconds": 1}',
        '{"type": "heartbeat", "phase": "ready", "rss_bytes": 1, "cpu_seconds": 1}',
        b"\xff\x00binary",
        "",
    ],
)
async def test_anything_but_a_hello_first_closes_the_channel(tmp_path, frame):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.connection.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            await machine.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400


@pytest.mark.parametrize(("apart", "spoken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
async def test_one_version_apart_is_spoken(tmp_path, apart, spoken):
    version = protocol.PROTOCOL_VERSION + apart

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        if spoken:
            assert isinstance(await machine.hello("waiting", protocol=version), protocol.Welcome)
            return
        with pytest.raises(ConnectionClosed):
            await machine.hello("waiting", protocol=version)


@pytest.mark.parametrize(("apart", "spoken"), [(0, False), (1, True)])
async def test_what_only_a_newer_machine_says_is_passed_over(tmp_path, apart, spoken):
    version = protocol.PROTOCOL_VERSION + apart

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("waiting", protocol=version)
        await machine.connection.send('{"type": "mood", "mood": "good"}')
        if not spoken:
            with pytest.raises(ConnectionClosed):
                await machine.receive()
            return
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        await machine.answer({"still": "here"})
        assert (await calling).json() == {"still": "here"}


ENDED = {"type": "ended", "reason": "completed", "message": "Done."}


@pytest.mark.parametrize(
    "message",
    [
        {**ENDED, "exit_code": 2**31},
        {**ENDED, "exit_code": -1},
        {"type": "latency", "kind": "first_word", "milliseconds": -1.0},
        {"type": "latency", "kind": "turn", "milliseconds": 1e300},
        {"type": "ready", "timings": {"connected": -1e300}},
        {"type": "client-connected", "timings": {"client": 1e300}},
    ],
)
async def test_numbers_that_cannot_be_close_the_channel_and_change_nothing(tmp_path, message):
    async with deployment(tmp_path) as running:
        session_id, machine = await running.reported("active")
        before = await running.session(session_id)
        await machine.connection.send(json.dumps(message))
        with pytest.raises(ConnectionClosed, match="not a message of the channel"):
            await machine.receive()
        assert await running.session(session_id) == before


@pytest.mark.parametrize("connected", [-1.0, 1e300])
async def test_numbers_that_cannot_be_in_a_hello_close_the_channel_and_change_nothing(tmp_path, connected):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        before = await running.session(session_id)
        machine = await running.machine_of(session_id)
        hello = protocol.Hello(machine_id=f"m-{session_id}", session_id=session_id, phase="waiting")
        said = hello.model_dump() | {"timings": {"connected": connected}}
        await machine.connection.send(json.dumps(said))
        with pytest.raises(ConnectionClosed, match="not a message of the channel"):
            await machine.receive()
        assert await running.session(session_id) == before


async def test_a_message_with_many_faults_is_not_told_of_each(tmp_path, caplog):
    wrong = [1] * 10_000

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        hello = protocol.Hello(machine_id=f"m-{session_id}", session_id=session_id, phase="waiting")
        said = hello.model_dump() | {"versions": {str(n): fault for n, fault in enumerate(wrong)}}
        await machine.connection.send(json.dumps(said))
        with pytest.raises(ConnectionClosed, match="not a message of the channel"):
            await machine.receive()
    assert "not a message of the channel: 10000 values are wrong" in caplog.text
    # The headers of an answer are read to the first fault.
    answer = {"type": "response", "id": "1", "status": 200, "headers": wrong}
    with pytest.raises(ValidationError) as raised:
        protocol.parse_from_machine(json.dumps(answer))
    assert raised.value.error_count() == 1


async def test_versions_that_a_machine_reports_are_bounded(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        reported = {"pipecat": "1" * 10_000, **{f"other-{n}": "1" for n in range(10_000)}}
        await machine.hello("waiting", versions=reported)
        await running.in_phase(session_id, "waiting")
        kept = await running.dispatcher.store.machine(machine.id)
        assert kept is not None
        assert kept.versions == {"pipecat": "1" * 32}


async def test_a_machine_whose_session_is_over_is_told_to_stop(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        await running.http.delete(f"/sessions/{session_id}")
        machine = await running.machine_of(session_id)
        assert isinstance(await machine.hello(), protocol.Welcome)
        assert isinstance(await machine.receive(), protocol.Stop)


async def test_a_second_connection_takes_the_place_of_the_first(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        first = await running.machine_of(session_id)
        await first.hello()
        second = await running.machine_of(session_id)
        await second.hello()
        with pytest.raises(ConnectionClosed) as closed:
            await first.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4409
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        await second.answer({"connection": 2})
        assert (await calling).json() == {"connection": 2}


async def test_a_restarted_dispatcher_learns_from_hello_what_runs(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
    async with deployment(tmp_path, provider=running.provider) as restarted:
        machine = await restarted.machine_of(session_id)
        await machine.hello("active", timings=protocol.Timings(pipeline=700, client=800))
        active = await restarted.until(session_id, "active")
        assert active["timings"] == {"pipeline": 700, "client": 800}


async def test_untested_pipecat_is_logged_once_for_an_agent(tmp_path, caplog):
    async with deployment(tmp_path) as running:
        for version in ("1.99.0", "1.99.0", "1.14.0"):
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("waiting", versions={"pipecat": version})
            await running.in_phase(session_id, "waiting")
    said = [
        record.getMessage() for record in caplog.records if "newer than the versions" in record.getMessage()
    ]
    assert len(said) == 1
    assert said[0].startswith(
        "agent echo: Pipecat 1.99.0 is newer than the versions tested here, 1.7 to 1.14."
    )


async def test_warnings_about_versions_have_a_limit(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("dispatcher.sessions.machine_reports.MOST_WARNINGS", 1)

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        for minor in (98, 99):
            machine = await running.machine_of(session_id)
            await machine.hello("waiting", versions={"pipecat": f"1.{minor}.0"})
            await running.in_phase(session_id, "waiting")
            await running.settle()
    said = [
        record.getMessage() for record in caplog.records if "newer than the versions" in record.getMessage()
    ]
    assert len(said) == 1
