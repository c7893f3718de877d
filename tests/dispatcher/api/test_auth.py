"""Who may call."""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bot.protocol import CHANNEL_PATH
from tests.dispatcher.harness import deployment

KEY = "a-key-of-enough-length"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9000"}, 200),
        ({"Host": "[::1]:9000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9001"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "a[b]c"}, 403),
        ({"Origin": "http://["}, 403),
        ([("Host", "a:1"), ("Origin", "http://a:1"), ("Origin", "http://evil.example")], 403),
    ],
)
def test_only_our_own_names_and_our_own_pages_may_call(tmp_path, headers, status):
    async def run():
        async with deployment(tmp_path) as running:
            for path in ("/start", "/sessions/x/api/offer"):
                answer = await running.http.post(path, headers=headers)
                assert (answer.status_code == 403) == (status == 403)
            assert bool(running.provider.specs) == (status == 200)

    asyncio.run(run())


def test_another_page_cannot_open_a_channel(tmp_path):
    async def run():
        async with deployment(tmp_path) as running:
            url = running.url.replace("http", "ws") + CHANNEL_PATH
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, additional_headers={"Origin": "https://evil.example"}, proxy=None):
                    pass
            assert refused.value.response.status_code == 403

    asyncio.run(run())


@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \xe9"]
)
def test_with_keys_a_call_without_one_is_refused(tmp_path, given):
    async def run():
        async with deployment(tmp_path, api_keys=[KEY]) as running:
            headers = {"Authorization": given.encode("latin-1")} if given else {}
            for method, path in (("POST", "/start"), ("GET", "/sessions/x"), ("GET", "/v1/agents")):
                answer = await running.http.request(method, path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in answer.text

    asyncio.run(run())


def test_with_keys_each_of_them_opens_and_health_needs_none(tmp_path):
    other = "another-key-of-enough-length"

    async def run():
        async with deployment(tmp_path, api_keys=[KEY, other], key=other) as running:
            assert (await running.start())["sessionId"]
            for path in ("/healthz", "/readyz"):
                answer = await running.http.get(path, headers={"Authorization": ""})
                assert answer.json() == {"status": "ok"}

    asyncio.run(run())
