"""The rate at which a key may start sessions."""

import asyncio
from pathlib import Path

from dispatcher.keys import PUBLIC_RATE, KeyRate, new_key
from dispatcher.settings import AgentSettings
from tests.dispatcher.api.test_auth import bearer, entry, keyed
from tests.dispatcher.harness import deployment

LIMITED, NEWER, FREE = (new_key(public=False) for _ in range(3))
RATE = KeyRate(per_second=0.5, burst=2)
KEYS = (
    entry("limited", "start", LIMITED, rate=RATE),
    entry("limited", "start", NEWER, rate=RATE),
    entry("free", "start", FREE),
)


async def start(running, key: str, **headers: str):
    return await running.http.post("/start", headers=bearer(key) | headers)


async def test_a_burst_and_then_the_rate(tmp_path):
    async with keyed(tmp_path, *KEYS) as running:
        assert [(await start(running, LIMITED)).status_code for _ in range(3)] == [200, 200, 429]
        running.clock.advance(0.5)
        refused = await start(running, LIMITED)
        assert (refused.status_code, refused.json()["code"]) == (429, "429")
        assert refused.headers["retry-after"] == "2"
        assert len(running.provider.specs) == 2, "what is refused costs no machine"
        running.clock.advance(float(refused.headers["retry-after"]))
        assert [(await start(running, LIMITED)).status_code for _ in range(2)] == [200, 429]


async def test_a_public_key_has_a_rate_unless_its_entry_says_otherwise(tmp_path):
    site, other = (new_key(public=True) for _ in range(2))
    keys = (
        entry("site", "start", site, origins=("https://app.example",)),
        entry("other", "start", other, origins=("https://app.example",), rate=KeyRate(per_second=1, burst=1)),
    )

    agents = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), max_sessions=PUBLIC_RATE.burst + 3)}

    async with deployment(tmp_path, agents=agents, keys=keys) as running:
        origin = {"Origin": "https://app.example"}
        allowed = [(await start(running, site, **origin)).status_code for _ in range(PUBLIC_RATE.burst)]
        assert set(allowed) == {200}
        assert (await start(running, site, **origin)).status_code == 429
        running.clock.advance(1)
        assert (await start(running, site, **origin)).status_code == 200
        assert [(await start(running, other, **origin)).status_code for _ in range(2)] == [200, 429]


async def test_the_rate_is_the_names_and_nobody_elses(tmp_path):
    async with keyed(tmp_path, *KEYS) as running:
        statuses = [(await start(running, key)).status_code for key in (LIMITED, NEWER, NEWER)]
        assert statuses == [200, 200, 429]
        assert {(await start(running, FREE)).status_code for _ in range(5)} == {200}


async def test_a_repeated_start_is_not_counted(tmp_path):
    async with keyed(tmp_path, *KEYS) as running:
        same = {"Idempotency-Key": "call-1"}
        answers = await asyncio.gather(*(start(running, LIMITED, **same) for _ in range(20)))
        answers += [await start(running, LIMITED, **same) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["sessionId"] for answer in answers}) == 1
        assert [(await start(running, LIMITED)).status_code for _ in range(2)] == [200, 429]


async def test_a_start_that_finds_all_lines_busy_is_counted(tmp_path):

    async with keyed(tmp_path, *KEYS, max_sessions=1) as running:
        answers = [await start(running, LIMITED) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        words = [answer.json()["info"] for answer in answers[1:]]
        assert "too fast" not in words[0]
        assert "too fast" in words[1]


async def test_a_start_that_asks_for_what_is_not_there_is_not_counted(tmp_path):
    async with keyed(tmp_path, *KEYS) as running:
        for _ in range(5):
            missing = await running.http.post("/v1/public/moon/start", headers=bearer(LIMITED))
            assert missing.status_code == 404
        assert (await start(running, LIMITED)).status_code == 200
