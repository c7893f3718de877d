"""Calls that wait for their bots: how many are held, and that each is given back."""

import asyncio

import httpx
import pytest

from bot.protocol import Request
from dispatcher.domain.errors import TooManyCalls
from dispatcher.keys import hash_of, new_key
from dispatcher.sessions.held_calls import OF_SESSION, HeldCalls, Most
from tests.dispatcher.harness import Deployment, deployment, eventually
from tests.patience import PATIENCE

KEY = new_key(public=False)
KEYS = [{"name": "shop", "hash": hash_of(KEY), "scope": "admin"}]


def request(size: int) -> Request:
    return Request(id="1", method="POST", path="", body="x" * size)


@pytest.mark.parametrize(
    ("limits", "first", "second", "whose"),
    [
        (
            {"of_session": Most(1, 99)},
            ("s-1", "shop", 1),
            ("s-1", "shop", 1),
            "This session has 1 calls of 1 bytes",
        ),
        ({"of_session": Most(9, 10)}, ("s-1", "shop", 6), ("s-1", "shop", 5), "This session has"),
        (
            {"of_key": Most(1, 99)},
            ("s-1", "shop", 1),
            ("s-2", "shop", 1),
            "The key that started",
        ),
        (
            {"of_key": Most(9, 10)},
            ("s-1", "shop", 6),
            ("s-2", "shop", 5),
            "The key that started",
        ),
        ({"in_all": Most(1, 99)}, ("s-1", "shop", 1), ("s-2", None, 1), "The dispatcher"),
        ({"in_all": Most(9, 10)}, ("s-1", "shop", 6), ("s-2", None, 5), "The dispatcher"),
    ],
)
def test_a_call_too_many_is_refused_and_fits_once_another_is_given_back(limits, first, second, whose):
    held = HeldCalls(**limits)
    with held.hold(first[0], first[1], request(first[2])):
        with (
            pytest.raises(TooManyCalls, match=whose),
            held.hold(second[0], second[1], request(second[2])),
        ):
            pass
        assert (held.calls, held.bytes) == (1, first[2])
    with held.hold(second[0], second[1], request(second[2])):
        pass
    assert (held.calls, held.bytes) == (0, 0)


async def held(running: Deployment, number: int) -> None:
    await eventually(lambda: asyncio.sleep(0, running.dispatcher.service.held_calls.calls), number.__eq__)


async def test_a_sessions_calls_are_refused_beyond_its_bytes_and_given_back_at_its_end(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        path, body = f"/sessions/{session_id}/api/echo", b"x" * 1024 * 1024
        fitting = OF_SESSION.bytes // (len(body) * 4 // 3 + 100)
        calls = [asyncio.create_task(running.http.post(path, content=body)) for _ in range(fitting)]
        await held(running, fitting)
        refused = await running.http.post(path, content=body)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_calls")
        assert refused.headers["Retry-After"]
        ended = await running.http.delete(f"/sessions/{session_id}")
        assert ended.status_code == 200
        assert {(await call).status_code for call in calls} == {410}
        assert running.dispatcher.service.held_calls.bytes == 0


@pytest.mark.parametrize("path", ["/sessions/{}/api/echo", "/sessions/{}/api/offer"])
async def test_a_call_is_held_no_longer_when_its_caller_hangs_up(tmp_path, path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        call = asyncio.create_task(running.http.post(path.format(session_id), content=b"offer"))
        await held(running, 1)
        call.cancel()
        await held(running, 0)


@pytest.mark.parametrize("path", ["api/echo", "files"])
async def test_requests_that_never_end_are_refused_beyond_the_bytes_of_a_session(tmp_path, path):
    size = 1024 * 1024

    async with deployment(tmp_path, keys=KEYS, key=KEY) as running:
        started = (await running.http.post("/start?wait=none", json={})).json()
        url = f"/sessions/{started['sessionId']}/{path}"
        lines = [
            f"POST {url} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {started['sessionToken']}",
            f"Content-Length: {size}",
        ]
        head = "\r\n".join([*lines, "", ""]).encode()
        address = httpx.URL(running.url)
        kept = []
        for _ in range(OF_SESSION.bytes // size + 1):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            kept.append((reader, writer))
            writer.write(head + b"x" * (size - 1))
            await writer.drain()
        answers = [asyncio.create_task(reader.read(12)) for reader, _ in kept]
        done, _ = await asyncio.wait(answers, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert [answer.result() for answer in done] == [b"HTTP/1.1 429"]
        for _, writer in kept:
            writer.close()
        unfinished = running.dispatcher.app.state.unfinished
        await eventually(lambda: asyncio.sleep(0, unfinished.bytes), (0).__eq__)
        for answer in answers:
            answer.cancel()
