"""Sessions are kept for as long as the settings say."""

import itertools

import pytest

from tests.dispatcher.harness import Deployment, deployment

DAY = 24 * 3600.0


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request) -> dict[str, str]:
    return {} if request.param == "sqlite" else {"database_url": request.getfixturevalue("postgres_url")}


async def clean(running: Deployment) -> None:
    await running.dispatcher.leadership.keep()
    await running.dispatcher.reaper.tick()
    await running.dispatcher.background.settle()


async def test_old_sessions_go_with_all_that_is_theirs_and_live_ones_stay(tmp_path, database):
    async with deployment(tmp_path, keep_sessions_days=2, **database) as running:
        store = running.dispatcher.store
        old = (await running.start())["sessionId"]
        await running.http.delete(f"/sessions/{old}")
        stuck = (await running.start())["sessionId"]
        running.provider.deaf = True
        await running.http.delete(f"/sessions/{stuck}")
        await running.dispatcher.background.settle()
        running.clock.advance(1.5 * DAY)
        recent = (await running.start())["sessionId"]
        await running.http.delete(f"/sessions/{recent}")
        await clean(running)
        assert (await running.session(old))["state"] == "ended", "it is kept for two days"
        running.clock.advance(DAY)
        live = (await running.start())["sessionId"]
        await clean(running)
        assert (await running.http.get(f"/sessions/{old}")).status_code == 404
        assert (await running.http.get(f"/v1/sessions/{old}/events")).status_code == 404
        assert await store.events(old) == []
        assert await store.machine(f"m-{old}") is None
        assert (await running.session(stuck))["state"] == "ended", "its machine may still run"
        assert (await running.session(recent))["state"] == "ended"
        assert (await running.timeline(recent))[0]["event"] == "queued"
        assert (await running.session(live))["state"] == "starting"


async def test_they_go_in_their_time_where_the_clock_was_set_back(tmp_path, database):
    async with deployment(tmp_path, keep_sessions_days=1, **database) as running:
        await clean(running)
        running.clock.is_set(-30 * DAY)
        session_id = (await running.start())["sessionId"]
        await running.http.delete(f"/sessions/{session_id}")
        await running.dispatcher.background.settle()
        running.clock.advance(2 * DAY)
        await clean(running)
        assert (await running.http.get(f"/sessions/{session_id}")).status_code == 404


async def test_they_go_in_batches(tmp_path, database, monkeypatch):
    monkeypatch.setattr("dispatcher.sessions.maintenance.retention.SESSIONS", 2)

    async with deployment(tmp_path, keep_sessions_days=1, **database) as running:
        for _ in range(5):
            session_id = (await running.start())["sessionId"]
            await running.http.delete(f"/sessions/{session_id}")
        await running.dispatcher.background.settle()
        running.clock.advance(2 * DAY)

        async def left() -> int:
            return len((await running.http.get("/v1/agents/echo/sessions")).json()["sessions"])

        seen = [await left()]
        while seen[-1]:
            await clean(running)
            seen.append(await left())
        assert all(before - after <= 4 for before, after in itertools.pairwise(seen))
        assert len(seen) > 2
